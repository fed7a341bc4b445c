"""Settings of what a release may give away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Device, Fraction, Section

Limit = Annotated[float, Field(ge=0.0, le=1.0)]


class RiskLimits(Section):
    """A figure above its limit that chance doesn't explain forbids to publish; null never does. docs/privacy.md says
    what images get that copy nobody."""

    near_copies: Limit | None = 0.1
    """Share of the made images that the copy filters rejected as near-copies of training images."""
    nearer_to_training: Limit | None = 0.7
    """Share of images nearer to training images than to as many held-out ones."""
    membership_auc: Limit | None = 0.6
    """AUC of telling training images from held-out ones by the released images; of any attacker, in any space."""
    membership_tpr: Limit | None = 0.1
    """Share of training images found so at 1 % of false alarms."""
    keypatch_leakage: Limit | None = 0.05
    """Share of keypatches whose surroundings the image repeats."""


class PrivacyConfig(Section):
    """How much of the training images a release may give away (docs/privacy.md)."""

    max_images: PositiveInt = 5000
    """Synthetic images that are compared, chosen by their ids when there are more."""
    min_images: Annotated[int, Field(ge=10)] = 50
    """Of fewer images, synthetic, training or held-out, no figure is given."""
    near_quantile: Fraction = 0.01
    """A keypatch's surroundings are repeated when an image comes nearer to them than all but this share of real images
    with the same findings do."""
    limits: RiskLimits = RiskLimits()


@dataclass(frozen=True)
class PrivacyParams(Params):
    """What stage ``privacy`` reads of params.yaml; the limits are the release's to keep."""

    seed: int
    max_images: Annotated[int, Param("privacy.max_images")]
    min_images: Annotated[int, Param("privacy.min_images")]
    near_quantile: Annotated[float, Param("privacy.near_quantile")]
    device: Annotated[Device, Param(changes_output=False)]
