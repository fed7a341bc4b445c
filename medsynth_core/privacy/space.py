"""Synthetic, training and held-out images in one metric space, and the figures of their nearest neighbours.

Real people are the patients, not the films: where a patient has several, films are resampled patient by patient.

Shapes: N, M images, F coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

from medsynth_core.chance import Groups, resampled_interval, share_with_interval
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Metric = str | Callable[[Floats, Floats], Floats]
"""manhattan, euclidean, or what returns the distances [N, M], above 0 or 0, of coordinates [N, F] and [M, F]."""
NEAR = 0.05
"""Share of held-out images that come as near to a training image as what is called near."""
_MOST = 1000
"""Images a side at most where all pairs are held."""
_DRAWS, _RELABELLINGS = 5, 40
_BINS = 30
_PAIRS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Space:
    """Coordinates float32 [N, F] of the four sides.

    Attributes:
        reference: real images of a third set, which an attacker may have.
        training_patients, held_out_patients: of each film; None: each film is another patient's.
    """

    name: str
    metric: Metric
    synthetic: Floats
    training: Floats
    held_out: Floats
    reference: Floats
    training_patients: Groups | None = None
    held_out_patients: Groups | None = None

    def nearest(self, from_NF: Floats, to_MF: Floats) -> tuple[Ints, Floats]:
        """Returns (row of the nearest, distance to it) of each, both [N]; M > 0."""
        if isinstance(self.metric, str):
            rows, distances = pairwise_distances_argmin_min(from_NF, to_MF, metric=self.metric)
            return rows, distances
        parts = [(pairs.argmin(1), pairs.min(1)) for pairs in self._in_parts(from_NF, to_MF)]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([distances for _, distances in parts])

    def second_nearest(self, from_NF: Floats, to_MF: Floats) -> Floats:
        """Returns the distance of each to the one after its nearest, [N]; M > 1."""
        if isinstance(self.metric, str):
            neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute", metric=self.metric).fit(to_MF)
            second: Floats = neighbours.kneighbors(from_NF)[0][:, 1]
            return second
        return np.concatenate([np.partition(pairs, 1, axis=1)[:, 1] for pairs in self._in_parts(from_NF, to_MF)])

    @cached_property
    def to_training(self) -> tuple[tuple[Ints, Floats], tuple[Ints, Floats]]:
        """Nearest training image, and the distance to it, of the synthetic and of the held-out images."""
        return self.nearest(self.synthetic, self.training), self.nearest(self.held_out, self.training)

    def all_pairs(self, from_NF: Floats, to_MF: Floats) -> Floats:
        """Returns distances [N, M]."""
        if not isinstance(self.metric, str):
            return self.metric(from_NF, to_MF)
        pairs: Floats = cdist(from_NF, to_MF, "cityblock" if self.metric == "manhattan" else "euclidean")
        return pairs

    def _in_parts(self, from_NF: Floats, to_MF: Floats) -> Iterator[Floats]:
        step = max(1, _PAIRS_AT_ONCE // len(to_MF))
        for start in range(0, len(from_NF), step):
            yield self.all_pairs(from_NF[start : start + step], to_MF)


def distance_figures(space: Space, seed: int) -> Iterator[RiskFigure]:
    """Yields how near synthetic images come to training images, beside how near held-out ones do."""
    about = (space.name, len(space.synthetic), len(space.held_out))
    ours, theirs = space.to_training
    yield RiskFigure("distance", *about, *_median_and_range(ours[1]), *_median_and_range(theirs[1]))
    draw = stream(seed, "privacy.distances")
    strangers = space.held_out_patients
    interval = resampled_interval(_nearer, (ours[1], theirs[1]), draw, groups=(None, strangers))
    yield RiskFigure("nearer_than_held_out", *about, _nearer(ours[1], theirs[1]), *interval, NEAR)
    known = [authentic(space, *side) for side in (ours, theirs)]
    real = share_with_interval(known[1], strangers)
    yield RiskFigure("authenticity", *about, *share_with_interval(known[0]), *real)
    yield RiskFigure("nearer_to_training", *about, *_nearer_to_training(space, draw))


def _nearer(ours: Floats, theirs: Floats) -> float:
    return float((ours < np.quantile(theirs, NEAR)).mean())


def _median_and_range(values: Floats) -> tuple[float, float, float]:
    median, low, high = np.quantile(values, [0.5, 0.025, 0.975])
    return float(median), float(low), float(high)


def authentic(space: Space, rows_N: Ints, distances_N: Floats) -> npt.NDArray[np.bool_]:
    """Returns of each image whether its nearest training image has another training image nearer to it than the image
    itself is (A. Alaa et al., *How faithful is your synthetic data?*, ICML 2022, section 3.3), bool [N]. A training
    image that looks exactly the same is no other: beside one, even a copy would pass."""
    wanted, places_N = np.unique(rows_N, return_inverse=True)
    others = np.unique(space.training, axis=0)
    if len(others) == 1:
        return np.zeros(len(rows_N), dtype=np.bool_)
    second = space.second_nearest(space.training[wanted], others)
    own: npt.NDArray[np.bool_] = distances_N >= second[places_N]
    return own


def _nearer_to_training(space: Space, draw: np.random.Generator) -> tuple[float, float, float, float, float, float]:
    """Returns the share of synthetic images that lie nearer to training images than to as many held-out ones, mean,
    smallest and largest over draws of training images; then one half, and the 95 % range when the two sets are mixed.
    Of each patient there is one film, so that nobody counts for more.

    A generator that only prefers what is common lies near to both; one that copies, to the first.
    """
    synthetic = draw.permutation(space.synthetic)[:_MOST]
    known = _one_film_each(space.training, space.training_patients, draw)
    held_out = _one_film_each(space.held_out, space.held_out_patients, draw)[: min(_MOST, len(known))]
    n = len(held_out)
    shares, mixed = [], []
    for at in range(min(_DRAWS, len(known) // n)):
        both = np.concatenate([known[at * n : at * n + n], held_out])
        pairs = space.all_pairs(synthetic, both)
        shares.append(_first_half_is_nearer(pairs))
        mixed += [_first_half_is_nearer(pairs[:, draw.permutation(2 * n)]) for _ in range(_RELABELLINGS)]
    low, high = np.quantile(mixed, [0.025, 0.975])
    return float(np.mean(shares)), min(shares), max(shares), 0.5, float(low), float(high)


def _one_film_each(films_NF: Floats, patients: Groups | None, draw: np.random.Generator) -> Floats:
    """Returns films in random order, of each patient the first one drawn."""
    order = draw.permutation(len(films_NF))
    if patients is not None:
        order = order[np.sort(np.unique(np.array(patients)[order], return_index=True)[1])]
    return films_NF[order]


def _first_half_is_nearer(pairs: Floats) -> float:
    half = pairs.shape[1] // 2
    first, second = pairs[:, :half].min(1), pairs[:, half:].min(1)
    return float((first < second).mean() + (first == second).mean() / 2)


def histogram(space: Space) -> dict[str, list[float]]:
    """Returns how the distances to the nearest training image are spread: bin edges, and shares a bin of synthetic and
    of held-out images; what lies beyond the last edge counts in the last bin."""
    ours, theirs = (distances for _, distances in space.to_training)
    edges = np.linspace(0, float(np.quantile(np.concatenate([ours, theirs]), 0.99)) or 1.0, _BINS + 1)
    shares = [np.histogram(side.clip(max=edges[-1]), edges)[0] / len(side) for side in (ours, theirs)]
    rounded = [[float(f"{value:.4g}") for value in values] for values in (edges, *shares)]
    return dict(zip(("edges", "synthetic", "held_out"), rounded, strict=True))
