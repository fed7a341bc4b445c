"""The near-duplicate filter: copies of training images and copies inside a release.

A signature is a 16 x 16 thumbnail, uint8. The distance of two is the mean absolute difference over 255 after
each was brought to the same mean, so that brightness doesn't hide a copy: 0 is the same picture. How close
different patients come depends on the corpus and its size (0.05 was the least among 85 real films, 0.008 the
first percentile of phantoms to 9,000 others), so the bound is a quantile of held-out images' distances.

Training images are compared as the VQ-GAN renders them, since a generator that has memorised one emits its codes:
a copy then lies at 0, where the original lies at up to 0.03, farther than the next patient. They are compared by
registration, so that contrast, a crop or mirroring doesn't hide a copy either; its distance has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from medsynth_core.errors import InputError
from medsynth_core.quality.filters import Images, Judgement, Prompt, Verdict
from medsynth_core.quality.registration import SIDE, Registration

Signatures = npt.NDArray[np.uint8]
"""uint8 [N, 256]."""
_SCALE = 255.0 * SIDE * SIDE
_ROWS_A_BLOCK = 8192
_SETTLED_AT_ONCE = 512
_NONE = np.zeros((0, SIDE * SIDE), dtype=np.uint8)
_REFERENCE = "training_signatures.npy"


def signatures(images_u8: Images) -> Signatures:
    """Returns a thumbnail an image, averaged over areas."""
    if not len(images_u8):
        return _NONE
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images_u8]
    return np.stack(small).reshape(len(images_u8), -1)


def save_reference(folder: Path, training: Signatures) -> None:
    """Writes the signatures of the training images into a model's folder."""
    np.save(folder / _REFERENCE, training, allow_pickle=False)


def load_reference(folder: Path) -> Signatures:
    """Returns the signatures of the images that a model was trained on.

    Raises:
        InputError: there are none, or they can't be read.
    """
    try:
        marks: Signatures = np.load(folder / _REFERENCE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / _REFERENCE}: no signatures of training images; retrain the model") from error
    return marks


def nearest(query: Signatures, reference: Signatures) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns (distance in 0..1, row of the nearest reference) for each query; distance 1 without a reference."""
    distance = np.ones(len(query), dtype=np.float32)
    row = np.full(len(query), -1, dtype=np.int64)
    centred = _centred(query)
    for start in range(0, len(reference), _ROWS_A_BLOCK):
        block = cdist(centred, _centred(reference[start : start + _ROWS_A_BLOCK]), "cityblock") / _SCALE
        best = block.argmin(axis=1)
        value = block[np.arange(len(query)), best].astype(np.float32)
        closer = value < distance
        distance[closer] = value[closer]
        row[closer] = best[closer] + start
    return distance, row


def first_of_copies(marks: Signatures, bound: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns (is a copy of an earlier kept one, distance to the nearest earlier kept one), in order.

    The distance is 1 for an image with no kept one before it. Compares all pairs: for the images of one shard.
    """
    kept: list[int] = []
    copies = np.zeros(len(marks), dtype=bool)
    distances = np.ones(len(marks), dtype=np.float32)
    for start in range(0, len(marks), _SETTLED_AT_ONCE):
        block = marks[start : start + _SETTLED_AT_ONCE]
        earlier, _ = nearest(block, marks[kept])
        stop = start + len(block)
        copies[start:stop], distances[start:stop] = _settle(block, earlier, bound)
        kept.extend(start + np.flatnonzero(~copies[start:stop]))
    return copies, distances


def find_copies(marks: Signatures, bound: float, n_kept: int = 0) -> dict[int, float]:
    """Returns the rows that are copies of an earlier kept one, with the distance to the nearest such; the first
    ``n_kept`` are kept whatever they are.

    Gives the copies of ``first_of_copies`` exactly, for as many images as fit into memory: sums over blocks of
    4 x 4 cells of two signatures can't lie further apart than the signatures do, so a tree of these sums finds
    the few kept ones that are worth comparing. A release of one image repeated keeps one and stays cheap.
    """
    copies: dict[int, float] = {}
    sums = _block_sums(marks)
    kept = np.arange(n_kept, dtype=np.int64)
    radius = bound * _SCALE + 1e-3
    for start in range(n_kept, len(marks), _SETTLED_AT_ONCE):
        block = marks[start : start + _SETTLED_AT_ONCE]
        earlier = np.ones(len(block), dtype=np.float32)
        if len(kept):
            tree = cKDTree(sums[kept])
            for index in range(len(block)):  # one at a time: the candidates of many could be all pairs
                candidates = tree.query_ball_point(sums[start + index], radius, p=1.0)
                earlier[index] = nearest(block[index : index + 1], marks[kept[candidates]])[0][0]
        is_copy, distance = _settle(block, earlier, bound)
        copies.update((start + int(index), float(distance[index])) for index in np.flatnonzero(is_copy))
        kept = np.concatenate([kept, start + np.flatnonzero(~is_copy)])
    return copies


class TrainingCopyFilter:
    """Rejects near-copies of training images, also brightened, cropped or mirrored ones, given the signatures of their
    reconstructions."""

    name = "duplicate"

    def __init__(self, training: Registration, bound: float) -> None:
        self._training = training
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: distance to the nearest training image, registered."""
        return [
            Judgement({"score_training_distance": float(d)}, "duplicate:training" if d <= self._bound else None)
            for d in self._training.distances(images_u8)
        ]


def reject_copies(verdicts: Sequence[Verdict], marks: Sequence[npt.NDArray[np.uint8]], bound: float) -> None:
    """Rejects, in the verdicts, near-copies of an earlier image that is kept; compares accepted images alone.

    Score: distance to the nearest earlier kept image.
    """
    alive = [index for index, verdict in enumerate(verdicts) if verdict.accepted]
    copies, distances = first_of_copies(np.stack([marks[index] for index in alive]) if alive else _NONE, bound)
    for index, copy, distance in zip(alive, copies, distances, strict=True):
        verdicts[index].scores["score_release_distance"] = float(distance)
        if copy:
            verdicts[index].reasons.append("duplicate:release")


def _settle(
    block: Signatures, earlier: npt.NDArray[np.float32], bound: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns (is a copy, distance) in a block, given each row's distance to the kept ones before the block."""
    centred = _centred(block)
    inside = (cdist(centred, centred, "cityblock") / _SCALE).astype(np.float32)
    distance = earlier.copy()
    is_copy = np.zeros(len(block), dtype=bool)
    for index in range(len(block)):
        is_copy[index] = distance[index] <= bound
        if not is_copy[index]:
            np.minimum(distance[index + 1 :], inside[index, index + 1 :], out=distance[index + 1 :])
    return is_copy, distance


def _block_sums(marks: Signatures) -> npt.NDArray[np.float32]:
    """Returns sums over blocks less their mean, float32 [N, 16], which holds them exactly."""
    cells = marks.reshape(len(marks), SIDE // 4, 4, SIDE // 4, 4)
    sums = cells.sum(axis=(2, 4), dtype=np.float32).reshape(len(marks), (SIDE // 4) ** 2)
    sums -= sums.mean(axis=1, keepdims=True)
    return sums


def _centred(marks: Signatures) -> npt.NDArray[np.float64]:
    values = marks.astype(np.float64)
    centred: npt.NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    return centred
