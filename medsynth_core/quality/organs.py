"""The organ filter: two lungs and a heart, each of the usual size, shape and place.

A segmenter finds them (``models.segmenter``; only where the corpus has masks to learn from). How usual they are is the
distance of all their measures from those of the training images as the VQ-GAN renders them, along the measures'
principal components (Mahalanobis). The thumbnails of the anatomy filter tell a lung that is missing; a heart that is
missing or on the other side is too small a part of them.

Shapes: N images, O = 3 organs, M = 6 measures of each, G cells a side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from medsynth_core.corpus.records import ORGANS
from medsynth_core.errors import InputError
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.segmenter import OrganSegmenter
from medsynth_core.quality.filters import Images, Judgement, Prompt

Floats = npt.NDArray[np.float64]
_FILE = "organs.json"
_FINEST = np.array([0.02, 0.005, 0.005, 0.005, 0.005, 0.02])
"""Differences of each measure that mean nothing, less than a cell; added to the deviations."""
_LEAST_VARIANCE = 0.02
"""Added to that of each component, in standard deviations squared: measures of one organ nearly follow each other."""
_NONE = 0.005
"""Share of the image that an organ is taken to have beside what is seen, so that a missing one has a logarithm."""
_FEWEST_CELLS = 4
"""Of fewer cells an organ has a size, but no place and shape."""
_CONNECTED = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])


@torch.inference_mode()
def organ_cells(segmenter: OrganSegmenter, images_u8: Images) -> npt.NDArray[np.int64]:
    """Returns the organ in each cell, numbers of ``records.ORGANS``, int64 [N, G, G]."""
    device = next(segmenter.parameters()).device
    logits = segmenter(to_inputs(images_u8, device))
    cells: npt.NDArray[np.int64] = logits.argmax(1).cpu().numpy()
    return cells


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

    def save(self, folder: Path) -> None:
        """Writes what is usual into a model's folder."""
        about = {"mean": self._mean_OM, "deviation": self._deviation_OM, "whiten": self._whiten}
        (folder / _FILE).write_text(json.dumps({name: value.tolist() for name, value in about.items()}) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> UsualOrgans:
        """Returns what a model's folder says is usual.

        Raises:
            InputError: it says nothing, or can't be read.
        """
        try:
            about = json.loads((folder / _FILE).read_text("utf-8"))
            return cls(*(np.array(about[name], dtype=np.float64) for name in ("mean", "deviation", "whiten")))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder / _FILE}: no usual organs there; retrain the {folder.name} model") from error


class OrganFilter:
    """Rejects frontal images whose lungs and heart are farther from the usual than almost all real held-out images'."""

    name = "organs"

    def __init__(self, segment: Callable[[Images], npt.NDArray[np.int64]], usual: UsualOrgans, bound: float) -> None:
        """Takes what returns the organ of each cell, int64 [N, G, G]."""
        self._segment = segment
        self._usual = usual
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: ``UsualOrgans.scores``; a lateral image has none."""
        judgements = [Judgement({}) for _ in prompts]
        frontal = [row for row, prompt in enumerate(prompts) if prompt.view != "lateral"]
        if frontal:
            found = measures(self._segment(images_u8[frontal]))
            for row, score, organ in zip(frontal, self._usual.scores(found), self._usual.strangest(found), strict=True):
                reason = None if score <= self._bound else f"organs:{organ}"
                judgements[row] = Judgement({"score_organs": float(score)}, reason)
        return judgements


def _standard(measures_NOM: Floats, mean_OM: Floats, deviation_OM: Floats) -> Floats:
    """Returns standardised measures in a row, float64 [N, O M]; where there is no organ only its size deviates."""
    known = np.where(np.isnan(measures_NOM), mean_OM, measures_NOM)
    standard: Floats = ((known - mean_OM) / deviation_OM).reshape(len(known), -1)
    return standard
