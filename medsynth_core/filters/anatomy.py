"""The anatomy filter: lungs, heart and body where the corpus has them, bright where they are.

Masks of organs exist for few corpora, so the corpus' own thumbnails say what is usual: their principal components, and
how far an image lies from the mean along these (Hotelling's T squared). A shifted, inverted or framed film and one with
a single lung lie far off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import (
    NO_LIMIT,
    Arrays,
    Column,
    Context,
    Filter,
    Prompt,
    Reason,
    Scores,
    Training,
    percent,
    quantile_of,
)
from medsynth_core.filters.thumbnails import Images, Thumbnails

_VARIANCE = 0.95
"""Share of the thumbnails' variance that the components hold; what is finer differs between patients."""


class Anatomy:
    """A Gaussian of thumbnails along their principal components."""

    def __init__(self, training: Thumbnails) -> None:
        """Takes thumbnails of training images, uint8 [N, 256]."""
        standard = _standardised(training)
        self.mean: npt.NDArray[np.float64] = standard.mean(0)
        variances, axes = np.linalg.eigh(np.cov(standard, rowvar=False))
        variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
        n = int(np.searchsorted(variances.cumsum(), _VARIANCE * variances.sum())) + 1
        self._whiten = axes[:, :n] / np.sqrt(variances[:n] + 1e-9) / np.sqrt(n)

    def scores(self, thumbs: Thumbnails) -> npt.NDArray[np.float64]:
        """Returns the mean squared distance from the mean in standard deviations of each component, float64 [N]; about
        1 for a usual image."""
        scores: npt.NDArray[np.float64] = np.square((_standardised(thumbs) - self.mean) @ self._whiten).sum(1)
        return scores

    def inverted(self, thumbs: Thumbnails) -> npt.NDArray[np.bool_]:
        """Returns whether each is bright where the mean is dark, bool [N]."""
        inverted: npt.NDArray[np.bool_] = _standardised(thumbs) @ self.mean < 0
        return inverted


_SCORE, _INVERTED = "score_anatomy", "is inverted"
_UNUSUAL_REASON, _INVERTED_REASON = "anatomy:unusual", "anatomy:inverted"


class AnatomySettings(Section):
    """Images that are shifted, inverted, framed, or lack an organ."""

    quantile: Fraction = 0.005
    """Of the distance of the thumbnail from the usual one."""


class AnatomyFilter(Filter[AnatomySettings, Anatomy]):
    """Rejects images whose anatomy is farther from the usual than almost all real held-out images'."""

    name = "anatomy"
    version = 1
    cost = 0.1
    settings = AnatomySettings
    columns = (
        Column(_SCORE, "distance from the usual thumbnail, about 1 for a usual image", "unusual anatomy", "anatomy"),
    )
    reasons = (
        Reason(_UNUSUAL_REASON, "unusual anatomy", _SCORE),
        Reason(_INVERTED_REASON, "black and white swapped", _SCORE),
    )

    def model(self, fitted: Arrays, training: Training) -> Anatomy:
        return Anatomy(training.thumbnails)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: Anatomy) -> Scores:
        """Score: ``Anatomy.scores``."""
        return {_SCORE: model.scores(context.thumbnails), _INVERTED: model.inverted(context.thumbnails)}

    def bounds(self, scores: Scores, settings: AnatomySettings, margin: float) -> dict[str, float]:
        return {"anatomy": quantile_of(_SCORE, scores[_SCORE], 1 - settings.quantile, NO_LIMIT, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: AnatomySettings) -> list[str | None]:
        return [
            None if score <= bounds["anatomy"] else _INVERTED_REASON if inverted else _UNUSUAL_REASON
            for score, inverted in zip(scores[_SCORE], scores[_INVERTED], strict=True)
        ]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            "Images with unusual anatomy (shifted, inverted, framed, an organ missing) were rejected: farther from the "
            f"usual thumbnail than all but {percent(settings['quantile'])} of real held-out images."
        )


FILTER = AnatomyFilter()


def _standardised(thumbs: Thumbnails) -> npt.NDArray[np.float64]:
    """Returns thumbnails with mean 0 and deviation 1, exposure taken out."""
    values = thumbs.astype(np.float64)
    centred = values - values.mean(1, keepdims=True)
    standard: npt.NDArray[np.float64] = centred / (centred.std(1, keepdims=True) + 1.0)
    return standard
