"""The organ filter: two lungs and a heart, each of the usual size, shape and place.

A segmenter finds them (``models.segmenter``; only where the corpus has masks to learn from). How usual they are is the
distance of all their measures from those of the training images as the VQ-GAN renders them, along the measures'
principal components (Mahalanobis). The thumbnails of the anatomy filter tell a lung that is missing; a heart that is
missing or on the other side is too small a part of them.

Shapes: N images, O = 3 organs, M = 6 measures of each, G cells a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsynth_core.config.section import Fraction, Section
from medsynth_core.corpus.records import ORGANS
from medsynth_core.filters.spec import (
    NO_LIMIT,
    Arrays,
    Column,
    Context,
    Filter,
    Prompt,
    Reason,
    Reference,
    Scores,
    Training,
    percent,
    quantile_of,
)
from medsynth_core.filters.thumbnails import Images

Floats = npt.NDArray[np.float64]
_FINEST = np.array([0.02, 0.005, 0.005, 0.005, 0.005, 0.02])
"""Differences of each measure that mean nothing, less than a cell; added to the deviations."""
_LEAST_VARIANCE = 0.02
"""Added to that of each component, in standard deviations squared: measures of one organ nearly follow each other."""
_NONE = 0.005
"""Share of the image that an organ is taken to have beside what is seen, so that a missing one has a logarithm."""
_FEWEST_CELLS = 4
"""Of fewer cells an organ has a size, but no place and shape."""
_CONNECTED = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])


def measures(cells_NGG: npt.NDArray[np.int64]) -> Floats:
    """Returns, of each organ: logarithm of the share of the image; centre and spread across and down, in sides of the
    image; share of the organ that hangs together. float64 [N, O, M], NaN but the first where there is no organ."""
    n, side, _ = cells_NGG.shape
    organs_NOGG = cells_NGG[:, None] == np.arange(1, 1 + len(ORGANS))[:, None, None]
    count_NO = organs_NOGG.sum((2, 3)).astype(np.float64)
    seen_NO = np.where(count_NO >= _FEWEST_CELLS, count_NO, np.nan)
    centres = (np.arange(side) + 0.5) / side
    places = []
    for counts_NOG in (organs_NOGG.sum(2), organs_NOGG.sum(3)):
        mean_NO = counts_NOG @ centres / seen_NO
        places.append((mean_NO, np.sqrt((counts_NOG @ centres**2 / seen_NO - mean_NO**2).clip(0))))
    (x_NO, width_NO), (y_NO, height_NO) = places
    parts, n_parts = ndimage.label(organs_NOGG.reshape(-1, side, side), _CONNECTED)
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    sizes[0] = 0
    largest_NO = sizes[parts.reshape(len(parts), -1)].max(1).reshape(n, -1)
    size_NO = np.log(count_NO / side**2 + _NONE)
    return np.stack([size_NO, x_NO, y_NO, width_NO, height_NO, largest_NO / seen_NO], -1)


class UsualOrgans:
    """A Gaussian of the measures of all organs together."""

    def __init__(self, mean_OM: Floats, deviation_OM: Floats, whiten: Floats) -> None:
        self._mean_OM = mean_OM
        self._deviation_OM = deviation_OM
        self._whiten = whiten

    @classmethod
    def fit(cls, training_NOM: Floats) -> UsualOrgans:
        """Returns what is usual among training images, one or more; an organ that none of them shows is expected in
        the middle."""
        known = np.where(np.isnan(training_NOM).all(0), 0.5, training_NOM)
        mean_OM = np.nanmean(known, 0)
        deviation_OM = np.nanstd(known, 0) + _FINEST
        standard = _standard(training_NOM, mean_OM, deviation_OM)
        variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
        return cls(mean_OM, deviation_OM, axes / np.sqrt((variances.clip(min=0) + _LEAST_VARIANCE) * len(axes)))

    def scores(self, measures_NOM: Floats) -> Floats:
        """Returns the distance from the mean in standard deviations of a component, root mean square, float64 [N];
        about 1 for a usual image."""
        standard = _standard(measures_NOM, self._mean_OM, self._deviation_OM)
        scores: Floats = np.linalg.norm(standard @ self._whiten, axis=1)
        return scores

    def strangest(self, measures_NOM: Floats) -> list[str]:
        """Returns the organ of each image whose own measures are the farthest from the mean."""
        standard = _standard(measures_NOM, self._mean_OM, self._deviation_OM).reshape(measures_NOM.shape)
        return [ORGANS[place] for place in np.square(standard).sum(2).argmax(1)]

    def arrays(self) -> dict[str, Floats]:
        """Returns what ``of`` takes."""
        return {"mean": self._mean_OM, "deviation": self._deviation_OM, "whiten": self._whiten}

    @classmethod
    def of(cls, arrays: Arrays) -> UsualOrgans:
        """Returns what was fitted before.

        Raises:
            KeyError: these aren't its arrays.
        """
        return cls(arrays["mean"], arrays["deviation"], arrays["whiten"])


_SCORE, _STRANGEST = "score_organs", "strangest organ"


class OrganSettings(Section):
    """Lungs and heart, of frontal images, where the corpus has masks."""

    quantile: Fraction = 0.02
    """Of the distance of both lungs and heart from their usual size, shape and place."""


class Organs(Filter[OrganSettings, UsualOrgans | None]):
    """Rejects frontal images whose lungs and heart are farther from the usual than almost all real held-out images'.
    Where no film had a mask there is no segmenter, and it judges nothing."""

    name = "organs"
    version = 1
    cost = 0.4
    settings = OrganSettings
    columns = (
        Column(
            _SCORE,
            "distance of lungs and heart from the usual ones, about 1 for a usual image",
            "unusual lungs or heart",
            "organs",
            may_lack=True,
        ),
    )
    reasons = tuple(Reason(f"organs:{organ}", f"unusual {organ}", _SCORE) for organ in ORGANS)

    def fit(self, reference: Reference) -> Arrays:
        found = []
        for _, prompts, context in reference.batches():
            cells = context.organs()
            if cells is None:
                return {}
            found.append(measures(cells[_frontal(prompts)]))
        training_NOM = np.concatenate(found)
        return UsualOrgans.fit(training_NOM).arrays() if len(training_NOM) else {}

    def model(self, fitted: Arrays, training: Training) -> UsualOrgans | None:
        return UsualOrgans.of(fitted) if fitted else None

    def measure(
        self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: UsualOrgans | None
    ) -> Scores:
        """Score: ``UsualOrgans.scores``; a lateral image has none."""
        scores, strangest = np.full(len(prompts), np.nan), np.full(len(prompts), "", dtype=object)
        cells = None if model is None else context.organs()
        frontal = _frontal(prompts)
        if model is not None and cells is not None and frontal.any():
            found = measures(cells[frontal])
            scores[frontal], strangest[frontal] = model.scores(found), model.strangest(found)
        return {_SCORE: scores, _STRANGEST: strangest}

    def bounds(self, scores: Scores, settings: OrganSettings, margin: float) -> dict[str, float]:
        return {"organs": quantile_of(_SCORE, scores[_SCORE], 1 - settings.quantile, NO_LIMIT, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: OrganSettings) -> list[str | None]:
        return [
            f"organs:{organ}" if score > bounds["organs"] else None
            for score, organ in zip(scores[_SCORE], scores[_STRANGEST], strict=True)
        ]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            "Images whose lungs or heart, as a segmenter finds them, are of unusual size, shape or place were "
            f"rejected: farther from the usual than all but {percent(settings['quantile'])} of real held-out images'; "
            "only where the corpus has masks to learn from."
        )


FILTER = Organs()


def _frontal(prompts: Sequence[Prompt]) -> npt.NDArray[np.bool_]:
    """Returns which images show organs where a segmenter of frontal films looks for them, bool [N]."""
    return np.array([prompt.view != "lateral" for prompt in prompts], dtype=bool)


def _standard(measures_NOM: Floats, mean_OM: Floats, deviation_OM: Floats) -> Floats:
    """Returns standardised measures in a row, float64 [N, O M]; where there is no organ only its size deviates."""
    known = np.where(np.isnan(measures_NOM), mean_OM, measures_NOM)
    standard: Floats = ((known - mean_OM) / deviation_OM).reshape(len(known), -1)
    return standard
