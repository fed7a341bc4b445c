"""Settings of the filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Fraction, Section

FilterName = Literal[
    "degenerate", "sharpness", "noise", "anatomy", "organs", "niqe", "labels", "agreement", "duplicate"
]


class QualityConfig(Section):
    """Thresholds of the filters. A quantile is the share of real held-out images, as the VQ-GAN renders them, that lie
    beyond the bound, so that a setting means the same on every corpus."""

    min_contrast: Annotated[float, Field(ge=0.0, le=127.5)] = 8.0
    """Degenerate: standard deviation in grey levels (0..255) below which an image is blank."""
    clipped_quantile: Fraction = 0.005
    """Degenerate: share of pixels that are exactly 0 or 255."""
    sharpness_quantile: Fraction = 0.005
    """Sharpness: energy of the Laplacian; less is blurred."""
    noise_quantile: Fraction = 0.005
    """Noise: standard deviation of the grain."""
    anatomy_quantile: Fraction = 0.005
    """Anatomy: distance of the thumbnail from the usual one; shifted, inverted, framed, an organ missing."""
    organs_quantile: Fraction = 0.02
    """Organs: distance of both lungs and heart from their usual size, shape and place; of frontal images, where the
    corpus has masks."""
    niqe_quantile: Fraction = 0.005
    """NIQE against the corpus' own statistics."""
    labels_quantile: Fraction = 0.03
    """Labels: improbability of the prompted findings and sides by the labelling judge."""
    margin: Annotated[float, Field(ge=0.0)] = 0.5
    """The bounds of the seven above lie farther from the median by this share of the quantile's distance: few held-out
    images don't reach far into the tail."""
    training_copy_quantile: Fraction = 0.002
    """Near-duplicate: an image is a copy of a training image when it comes, registered, nearer to it than all but this
    share of real held-out images come to their nearest one."""
    copy_quantile: Fraction = 0.01
    """Near-duplicate: an image is a copy of another image of the release when it comes nearer to it than all but this
    share of real held-out images come to their nearest training image."""
    agreement_quantile: Fraction = 0.005
    """Prompt-image agreement: an image must score above this quantile of real held-out pairs."""
    enabled: tuple[FilterName, ...] = (
        "degenerate",
        "sharpness",
        "noise",
        "anatomy",
        "organs",
        "labels",
        "agreement",
        "duplicate",
    )
    """Which run; the order is always degenerate, sharpness, noise, anatomy, organs, niqe, labels, agreement, duplicate:
    cheap ones first. Left out here: niqe, which costs and catches nothing that the others miss."""


@dataclass(frozen=True)
class QualityParams(Params):
    """What stage ``quality`` reads of params.yaml; bounds come with the shards."""

    enabled: Annotated[tuple[FilterName, ...], Param("quality.enabled")]
