"""Near-duplicates in a release by two measures: thumbnails, and what the labelling judge sees.

Thumbnails find an image that is nearly the same pixel by pixel; features also one of another exposure or contrast. An
image that is a copy by thumbnails is never compared by features, so each measure keeps the earlier of two images.

Shapes: N images, M of them with features, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.duplicate import Signatures, find_copies, first_of_copies, settle
from medsynth_core.quality.filters import Features, Verdict

Floats = npt.NDArray[np.float32]
_ROWS_A_BLOCK = 8192


@dataclass(frozen=True)
class CopyBounds:
    """Distances at which an image is a copy of an earlier one."""

    thumbnails: float
    features: float

    @classmethod
    def of(cls, bounds: Mapping[str, float]) -> CopyBounds:
        """Returns those among all bounds of a run."""
        return cls(bounds["copy"], bounds["copy_features"])


@dataclass(frozen=True)
class Marks:
    """What images are compared by.

    Attributes:
        thumbnails: uint8 [N, 256].
        features: of the images that have them, float16 [M, F].
        has_features: bool [N].
    """

    thumbnails: Signatures
    features: Features
    has_features: npt.NDArray[np.bool_]

    def features_of(self, rows: npt.NDArray[np.int64]) -> Features:
        """Returns the features of some images that have them."""
        return self.features[(self.has_features.cumsum() - 1)[rows]]


@dataclass(frozen=True)
class Copy:
    """Why an image is a copy, and the score that says so."""

    reason: str
    scores: Mapping[str, float]


def release_copies(marks: Marks, bounds: CopyBounds, n_kept: int) -> dict[int, Copy]:
    """Returns the rows that are copies of an earlier kept one; the first ``n_kept`` are kept whatever they are."""
    copies = {
        row: Copy("duplicate:release", {"score_release_distance": distance})
        for row, distance in find_copies(marks.thumbnails, bounds.thumbnails, n_kept).items()
    }
    left = marks.has_features.copy()
    left[list(copies)] = False
    rows = np.flatnonzero(left)
    copied, distances = first_of_alike(marks.features_of(rows), bounds.features, int(left[:n_kept].sum()))
    for place in np.flatnonzero(copied):
        copies[int(rows[place])] = _alike(distances[place])
    return copies


def reject_copies(verdicts: Sequence[Verdict], marks: Marks, bounds: CopyBounds) -> None:
    """Rejects, in the verdicts, near-copies of an earlier image that is kept; compares accepted images alone.

    Scores: distances to the nearest earlier kept image.
    """
    alive = [row for row, verdict in enumerate(verdicts) if verdict.accepted]
    copied, distances = first_of_copies(marks.thumbnails[alive], bounds.thumbnails)
    for row, copy, distance in zip(alive, copied, distances, strict=True):
        verdicts[row].scores["score_release_distance"] = float(distance)
        if copy:
            verdicts[row].reasons.append("duplicate:release")
    rows = np.array([row for row in alive if verdicts[row].accepted and marks.has_features[row]], dtype=np.int64)
    copied, distances = first_of_alike(marks.features_of(rows), bounds.features)
    for row, copy, distance in zip(rows, copied, distances, strict=True):
        if np.isfinite(distance):
            verdicts[row].scores["score_release_features"] = float(distance)
        if copy:
            verdicts[row].reasons.append(_alike(distance).reason)


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


def _alike(distance: np.float32) -> Copy:
    return Copy("duplicate:alike", {"score_release_features": float(distance)})


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
