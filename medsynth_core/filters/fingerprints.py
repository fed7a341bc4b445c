"""Fingerprints, by which the images of a release are compared with each other: thumbnails, and what the labelling judge
sees.

Thumbnails find an image that is nearly the same pixel by pixel; features also one of another exposure or contrast.

Shapes: N images, M of them with features, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsynth_core.filters.thumbnails import Thumbnails, settle

Features = npt.NDArray[np.float16]
"""What the labelling judge sees in images, standardised, float16 [N, F] or [F] of one."""
Floats = npt.NDArray[np.float32]
_ROWS_A_BLOCK = 8192


@dataclass(frozen=True)
class Fingerprints:
    """What images are compared by.

    Attributes:
        thumbnails: uint8 [N, 256].
        features: of the images that have them, float16 [M, F].
        has_features: bool [N].
    """

    thumbnails: Thumbnails
    features: Features
    has_features: npt.NDArray[np.bool_]

    def features_of(self, rows: npt.NDArray[np.int64]) -> Features:
        """Returns the features of some images that have them."""
        return self.features[(self.has_features.cumsum() - 1)[rows]]


@dataclass(frozen=True)
class Copy:
    """Why an image is a copy of another one, and the scores that say so."""

    reason: str
    scores: Mapping[str, float]


def first_of_alike(features_NF: Features, bound: float, n_kept: int = 0) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Returns (is alike an earlier kept one, distance to the nearest earlier kept one), in order; infinite where there
    is none. The first ``n_kept`` are kept whatever they are. Compares all pairs, a block of them in memory."""
    return settle(
        len(features_NF),
        n_kept,
        bound,
        np.inf,
        lambda rows, kept: _to_nearest(features_NF[rows], features_NF, kept),
        lambda rows: _distances(features_NF[rows], features_NF[rows]),
    )


def nearest_features(query_BF: Features | Floats, reference_RF: Features | Floats) -> Floats:
    """Returns the distance of each query to the nearest reference, float32 [B]; infinite without one."""
    return _to_nearest(query_BF, reference_RF, np.arange(len(reference_RF)))


def _to_nearest(query_BF: Features | Floats, reference_RF: Features | Floats, rows: npt.NDArray[np.int64]) -> Floats:
    query = query_BF.astype(np.float32)
    nearest = np.full(len(query), np.inf, dtype=np.float32)
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = _beyond_own(query, reference_RF[rows[start : start + _ROWS_A_BLOCK]])
        np.minimum(nearest, block.min(1), out=nearest)
    return _root_mean(query, nearest)


def _distances(a_AF: Features, b_BF: Features) -> Floats:
    """Returns root mean squared differences, float32 [A, B]; exact zeros may come out as some 1e-3."""
    a = a_AF.astype(np.float32)
    return _root_mean(a, _beyond_own(a, b_BF).T).T


def _beyond_own(a_AF: Floats, b_BF: Features | Floats) -> Floats:
    """Returns squared distances less the first one's own squared length, float32 [A, B]."""
    b = b_BF.astype(np.float32)
    squares: Floats = (-2 * a_AF) @ b.T
    squares += np.square(b).sum(1)
    return squares


def _root_mean(a_AF: Floats, squares: Floats) -> Floats:
    """Returns the distances that ``_beyond_own`` says, [..., A]."""
    distances: Floats = np.sqrt((squares + np.square(a_AF).sum(1)).clip(min=0) / max(1, a_AF.shape[1]))
    return distances
