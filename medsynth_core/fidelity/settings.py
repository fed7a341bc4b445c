"""Settings of how real the images must look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Device, Fraction, Section

_Enough = Annotated[int, Field(ge=10)]
MIN_IMAGES = 50


class FidelityFloors(Section):
    """A fidelity below its floor that chance doesn't explain forbids to publish; null never does. Real films get
    about 0.95 (docs/explanation/fidelity.md)."""

    tokenizer: Fraction | None = 0.5
    """Share of real held-out films that still lie within the range of real ones when the image tokenizer has rendered
    them."""
    images: Fraction | None = 0.5
    """Share of the accepted images that lie within it."""


class FidelityConfig(Section):
    """How the images are compared with real films; ``release.min_fidelity`` says what is refused
    (docs/explanation/fidelity.md)."""

    max_images: _Enough = 1000
    """Images a side (synthetic, training, validation, held-out), chosen at random when there are more."""
    min_images: _Enough = MIN_IMAGES
    """Of fewer images a side no figure is given."""
    told_apart_images: _Enough = 400
    """Of these, how many a side learn to be told apart."""


@dataclass(frozen=True)
class FidelityParams(Params):
    """What stage ``fidelity`` reads of params.yaml; the floors are the release's to keep."""

    seed: int
    fidelity: FidelityConfig
    device: Annotated[Device, Param(changes_output=False)]
