"""Settings of what a release may give away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.plugins import Plugins
from medsynth_core.config.section import Device, Fraction, Section
from medsynth_core.models.settings import OptimiserConfig, check_eights

Limit = Annotated[float, Field(ge=0.0, le=1.0)]
ATTACKERS = Plugins("medsynth_core.privacy.attackers", setting="privacy.attackers", function="attack")


class RiskLimits(Section):
    """A figure above its limit that chance doesn't explain forbids to publish; null never does.
    docs/explanation/privacy.md says what images get that copy nobody."""

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
    likelihood_auc: Limit | None = None
    """AUC of telling training images from held-out ones by the language model itself: set it where the models are
    shared, too. The images alone don't give that away."""
    likelihood_tpr: Limit | None = None
    """Share of training images found so at 1 % of false alarms."""


class ReidentificationConfig(Section):
    """The network that the attacker ``reidentification`` trains where no file is named: it learns to tell films of one
    patient from films of two, on the patients of the labelling judge. Once a corpus; it is kept in .medsynth."""

    channels: tuple[PositiveInt, ...] = (24, 48, 96)
    """Channels a stage, multiples of 8; each stage halves the resolution."""
    train: OptimiserConfig = OptimiserConfig(steps=200, batch_size=48, learning_rate=2e-3, warmup_steps=30)
    """A batch has so many patients, two films of each; the last weights are kept."""

    @model_validator(mode="after")
    def _groups_divide(self) -> ReidentificationConfig:
        check_eights(self.channels)
        return self


class PrivacyConfig(Section):
    """How much of the training images a release may give away (docs/explanation/privacy.md)."""

    max_images: PositiveInt = 5000
    """Synthetic images that are compared, chosen by their ids when there are more."""
    min_images: Annotated[int, Field(ge=10)] = 50
    """Of fewer images, synthetic, training or held-out, no figure is given."""
    attackers: tuple[str, ...] = ("pixels", "judge")
    """Who tries to tell training patients, modules of privacy/attackers: pixels, who compares thumbnails; judge, by the
    labelling judge's features; reidentification, by a network that tells films of one patient from films of two, which
    it trains here (privacy.reidentification), or reidentification:FILE, CheXGenBench's; likelihood, who has the models
    themselves."""
    reidentification: ReidentificationConfig = ReidentificationConfig()
    near_quantile: Fraction = 0.01
    """A keypatch's surroundings are repeated when an image comes nearer to them than all but this share of real images
    with the same findings do."""
    limits: RiskLimits = RiskLimits()

    @field_validator("attackers")
    @classmethod
    def _known(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            ATTACKERS.checked(entry.partition(":")[0])
        if len(set(entries)) < len(entries):
            raise ValueError(f"an attacker is named twice among {', '.join(entries)}")
        return entries


@dataclass(frozen=True)
class PrivacyParams(Params):
    """What stage ``privacy`` reads of params.yaml; the limits are the release's to keep."""

    seed: int
    max_images: Annotated[int, Param("privacy.max_images")]
    min_images: Annotated[int, Param("privacy.min_images")]
    near_quantile: Annotated[float, Param("privacy.near_quantile")]
    attackers: Annotated[tuple[str, ...], Param("privacy.attackers")]
    reidentification: Annotated[ReidentificationConfig, Param("privacy.reidentification")]
    device: Annotated[Device, Param(changes_output=False)]
