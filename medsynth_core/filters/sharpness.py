"""The sharpness filter: images smoother than the tokeniser makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import (
    OF_ORIGINALS,
    Column,
    Context,
    Filter,
    Prompt,
    Reason,
    Scores,
    percent,
    quantile_of,
)
from medsynth_core.filters.thumbnails import Images


def sharpness(images_u8: Images) -> npt.NDArray[np.float32]:
    """Returns the root mean square of the Laplacian over the image's standard deviation, float32 [N]; the variance of
    the Laplacian (J. L. Pech-Pacheco et al., *Diatom autofocusing in brightfield microscopy*, ICPR 2000), contrast
    taken out."""
    grey = images_u8.astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    root: npt.NDArray[np.float32] = np.sqrt(np.square(laplacian).mean((1, 2)))
    return root / (grey.std((1, 2)) + 1e-6)


_SCORE, _BLURRED = "score_sharpness", "sharpness:blurred"


class SharpnessSettings(Section):
    """Blurred images."""

    quantile: Fraction = 0.005
    """Of the energy of the Laplacian; less is blurred."""
    floor: Fraction = 0.8
    """Share of what that quantile of the originals have; less is blurred too, whatever the tokenizer makes of films."""


class Sharpness(Filter[SharpnessSettings, None]):
    """Rejects images that are less sharp than almost all held-out images as the tokenizer renders them, or than a share
    of what almost all originals are."""

    name = "sharpness"
    version = 2
    has_floor = True
    cost = 0.05
    settings = SharpnessSettings
    columns = (
        Column(_SCORE, "root mean square of the Laplacian over the standard deviation", "sharpness", "sharpness"),
    )
    reasons = (Reason(_BLURRED, "blurred", _SCORE),)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: None) -> Scores:
        """Score: ``sharpness``."""
        return {_SCORE: sharpness(images_u8)}

    def bounds(self, scores: Scores, settings: SharpnessSettings, margin: float) -> dict[str, float]:
        bound = quantile_of(_SCORE, scores[_SCORE], settings.quantile, 0.0, margin)
        if (originals := scores.get(_SCORE + OF_ORIGINALS)) is not None:
            bound = max(bound, settings.floor * quantile_of(_SCORE, originals, settings.quantile, 0.0))
        return {"sharpness": bound}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: SharpnessSettings) -> list[str | None]:
        return [_BLURRED if score < bounds["sharpness"] else None for score in scores[_SCORE]]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            f"Blurred images were rejected: softer than all but {percent(settings['quantile'])} of real held-out ones "
            f"as the tokenizer renders them, or with less than {settings.get('floor', 0.0):.0%} of the sharpness that "
            "these have themselves."
        )


FILTER = Sharpness()
