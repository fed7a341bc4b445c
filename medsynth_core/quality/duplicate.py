"""The near-duplicate filter: copies of training images and copies inside a release.

A signature is a 16 x 16 thumbnail, uint8. The distance of two is the mean absolute difference over 255 after
each was brought to the same mean, so that brightness doesn't hide a copy: 0 is the same picture, real chest
films of different patients lie well above 0.02.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.distance import cdist

from medsynth_core.quality.filters import Images, Judgement

SIDE = 16
Signatures = npt.NDArray[np.uint8]
"""uint8 [N, 256]."""
_ROWS_A_BLOCK = 8192


def signatures(images_u8: Images) -> Signatures:
    """Returns a thumbnail an image, averaged over areas."""
    if not len(images_u8):
        return np.zeros((0, SIDE * SIDE), dtype=np.uint8)
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images_u8]
    return np.stack(small).reshape(len(images_u8), -1)


def nearest(query: Signatures, reference: Signatures) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns (distance in 0..1, row of the nearest reference) for each query; distance 1 without a reference."""
    distance = np.ones(len(query), dtype=np.float32)
    row = np.full(len(query), -1, dtype=np.int64)
    centred = _centred(query)
    for start in range(0, len(reference), _ROWS_A_BLOCK):
        block = cdist(centred, _centred(reference[start : start + _ROWS_A_BLOCK]), "cityblock") / (255.0 * SIDE * SIDE)
        best = block.argmin(axis=1)
        value = block[np.arange(len(query)), best].astype(np.float32)
        closer = value < distance
        distance[closer] = value[closer]
        row[closer] = best[closer] + start
    return distance, row


def first_of_copies(marks: Signatures, bound: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns (is a copy of an earlier kept one, distance to the nearest earlier kept one), in order."""
    kept: list[int] = []
    copies = np.zeros(len(marks), dtype=bool)
    distances = np.ones(len(marks), dtype=np.float32)
    for index in range(len(marks)):
        if kept:
            distance, _ = nearest(marks[index : index + 1], marks[kept])
            distances[index] = distance[0]
            copies[index] = distance[0] <= bound
        if not copies[index]:
            kept.append(index)
    return copies, distances


class TrainingCopyFilter:
    """Rejects near-copies of training images."""

    name = "duplicate"

    def __init__(self, training: Signatures, bound: float) -> None:
        self._training = training
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[str]) -> list[Judgement]:
        """Score: distance to the nearest training image."""
        distances, _ = nearest(signatures(images_u8), self._training)
        return [
            Judgement({"score_training_distance": float(d)}, "duplicate:training" if d <= self._bound else None)
            for d in distances
        ]


class ShardCopyFilter:
    """Rejects near-copies of an earlier image of the same shard; must see a whole shard at once."""

    name = "duplicate"

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[str]) -> list[Judgement]:
        """Score: distance to the nearest earlier kept image."""
        copies, distances = first_of_copies(signatures(images_u8), self._bound)
        return [
            Judgement({"score_release_distance": float(d)}, "duplicate:release" if copy else None)
            for copy, d in zip(copies, distances, strict=True)
        ]


def _centred(marks: Signatures) -> npt.NDArray[np.float64]:
    values = marks.astype(np.float64)
    centred: npt.NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    return centred
