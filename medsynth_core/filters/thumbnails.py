"""Thumbnails and how near two of them come: what finds a picture that is nearly the same, pixel by pixel.

A thumbnail has 16 x 16 cells, uint8. The distance of two is the mean absolute difference over 255 after each was
brought to the same mean, so that brightness doesn't hide a copy: 0 is the same picture. How close different patients
come depends on the corpus and its size (0.05 was the least among 85 real films, 0.008 the first percentile of phantoms
to 9,000 others).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from medsynth_core.filters.registration import SIDE

Images = npt.NDArray[np.uint8]
"""uint8 [N, H, W]."""
Thumbnails = npt.NDArray[np.uint8]
"""uint8 [N, 256]."""
_SCALE = 255.0 * SIDE * SIDE
_ROWS_A_BLOCK = 8192
_SETTLED_AT_ONCE = 512
_NONE = np.zeros((0, SIDE * SIDE), dtype=np.uint8)


def thumbnails(images_u8: Images) -> Thumbnails:
    """Returns a thumbnail an image, averaged over areas."""
    if not len(images_u8):
        return _NONE
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images_u8]
    return np.stack(small).reshape(len(images_u8), -1)


def nearest(query: Thumbnails, reference: Thumbnails) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
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


def first_of_copies(thumbs: Thumbnails, bound: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns (is a copy of an earlier kept one, distance to the nearest earlier kept one), in order.

    The distance is 1 for an image with no kept one before it. Compares all pairs: for the images of one shard.
    """
    return settle(
        len(thumbs),
        0,
        bound,
        1.0,
        lambda rows, kept: nearest(thumbs[rows], thumbs[kept])[0],
        lambda rows: _among(thumbs[rows]),
    )


def find_copies(thumbs: Thumbnails, bound: float, n_kept: int = 0) -> dict[int, float]:
    """Returns the rows that are copies of an earlier kept one, with the distance to the nearest such; the first
    ``n_kept`` are kept whatever they are.

    Gives the copies of ``first_of_copies`` exactly, for as many images as fit into memory: sums over blocks of
    4 x 4 cells of two thumbnails can't lie further apart than the thumbnails do, so a tree of these sums finds
    the few kept ones that are worth comparing. A release of one image repeated keeps one and stays cheap.
    """
    sums, radius = _block_sums(thumbs), bound * _SCALE + 1e-3

    def to_nearest(rows: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        tree, distance = cKDTree(sums[kept]), np.ones(len(rows), dtype=np.float32)
        for place, row in enumerate(rows):  # one at a time: the candidates of many could be all pairs
            candidates = tree.query_ball_point(sums[row], radius, p=1.0)
            distance[place] = nearest(thumbs[row : row + 1], thumbs[kept[candidates]])[0][0]
        return distance

    copies, distances = settle(len(thumbs), n_kept, bound, 1.0, to_nearest, lambda rows: _among(thumbs[rows]))
    return {int(row): float(distances[row]) for row in np.flatnonzero(copies)}


def settle(
    n: int,
    n_kept: int,
    bound: float,
    without: float,
    to_nearest: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]],
    among: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Returns (lies within ``bound`` of an earlier kept one, distance to the nearest earlier kept one) of n rows, in
    order; the first ``n_kept`` are kept whatever they are.

    Args:
        without: distance of a row with no kept one before it.
        to_nearest: returns the distance of some rows to the nearest of some kept ones, float32 [rows].
        among: returns the distances of some rows to each other, float32 [rows, rows].
    """
    kept = np.arange(n_kept, dtype=np.int64)
    is_copy = np.zeros(n, dtype=bool)
    distances = np.full(n, without, dtype=np.float32)
    for start in range(n_kept, n, _SETTLED_AT_ONCE):
        rows = np.arange(start, min(start + _SETTLED_AT_ONCE, n), dtype=np.int64)
        inside, here = among(rows), distances[rows]
        if len(kept):
            np.minimum(here, to_nearest(rows, kept), out=here)
        for place in range(len(rows)):
            if here[place] > bound:
                np.minimum(here[place + 1 :], inside[place, place + 1 :], out=here[place + 1 :])
        distances[rows], is_copy[rows] = here, here <= bound
        kept = np.concatenate([kept, rows[here > bound]])
    return is_copy, distances


def _among(block: Thumbnails) -> npt.NDArray[np.float32]:
    """Returns the distances of some thumbnails to each other, float32 [n, n]."""
    centred = _centred(block)
    distances: npt.NDArray[np.float32] = (cdist(centred, centred, "cityblock") / _SCALE).astype(np.float32)
    return distances


def _block_sums(thumbs: Thumbnails) -> npt.NDArray[np.float32]:
    """Returns sums over blocks less their mean, float32 [N, 16], which holds them exactly."""
    cells = thumbs.reshape(len(thumbs), SIDE // 4, 4, SIDE // 4, 4)
    sums = cells.sum(axis=(2, 4), dtype=np.float32).reshape(len(thumbs), (SIDE // 4) ** 2)
    sums -= sums.mean(axis=1, keepdims=True)
    return sums


def _centred(thumbs: Thumbnails) -> npt.NDArray[np.float64]:
    values = thumbs.astype(np.float64)
    centred: npt.NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    return centred
