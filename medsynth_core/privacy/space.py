"""Synthetic, training and held-out images in one metric space, and the figures of their nearest neighbours.

Shapes: N, M images, F coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

from medsynth_core.chance import resampled_interval, share_with_interval
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
NEAR = 0.05
"""Share of held-out images that come as near to a training image as what is called near."""
_MOST = 1000
"""Images a side at most where all pairs are held."""
_DRAWS, _RELABELLINGS = 5, 40
_BINS = 30


@dataclass(frozen=True)
class Space:
    """Coordinates float32 [N, F] of the four sides.

    Attributes:
        metric: manhattan or euclidean.
        reference: real images of a third set, which an attacker may have.
    """

    name: str
    metric: str
    synthetic: Floats
    training: Floats
    held_out: Floats
    reference: Floats

    def nearest(self, from_NF: Floats, to_MF: Floats) -> tuple[Ints, Floats]:
        """Returns (row of the nearest, distance to it) of each, both [N]; M > 0."""
        rows, distances = pairwise_distances_argmin_min(from_NF, to_MF, metric=self.metric)
        return rows, distances

    @cached_property
    def to_training(self) -> tuple[tuple[Ints, Floats], tuple[Ints, Floats]]:
        """Nearest training image, and the distance to it, of the synthetic and of the held-out images."""
        return self.nearest(self.synthetic, self.training), self.nearest(self.held_out, self.training)

    def all_pairs(self, from_NF: Floats, to_MF: Floats) -> Floats:
        """Returns distances [N, M]."""
        pairs: Floats = cdist(from_NF, to_MF, "cityblock" if self.metric == "manhattan" else "euclidean")
        return pairs


def distance_figures(space: Space, seed: int) -> Iterator[RiskFigure]:
    """Yields how near synthetic images come to training images, beside how near held-out ones do."""
    about = (space.name, len(space.synthetic), len(space.held_out))
    ours, theirs = space.to_training
    yield RiskFigure("distance", *about, *_median_and_range(ours[1]), *_median_and_range(theirs[1]))
    draw = stream(seed, "privacy.distances")
    interval = resampled_interval(_nearer, (ours[1], theirs[1]), draw)
    yield RiskFigure("nearer_than_held_out", *about, _nearer(ours[1], theirs[1]), *interval, NEAR)
    known = [authentic(space, *side) for side in (ours, theirs)]
    yield RiskFigure("authenticity", *about, *share_with_interval(known[0]), *share_with_interval(known[1]))
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
    neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute", metric=space.metric).fit(others)
    second = neighbours.kneighbors(space.training[wanted])[0][:, 1]
    own: npt.NDArray[np.bool_] = distances_N >= second[places_N]
    return own


def _nearer_to_training(space: Space, draw: np.random.Generator) -> tuple[float, float, float, float, float, float]:
    """Returns the share of synthetic images that lie nearer to training images than to as many held-out ones, mean,
    smallest and largest over draws of training images; then one half, and the 95 % range when the two sets are mixed.

    A generator that only prefers what is common lies near to both; one that copies, to the first.
    """
    synthetic = draw.permutation(space.synthetic)[:_MOST]
    held_out = draw.permutation(space.held_out)[: min(_MOST, len(space.training))]
    n = len(held_out)
    order = draw.permutation(len(space.training))
    shares, mixed = [], []
    for at in range(min(_DRAWS, len(order) // n)):
        both = np.concatenate([space.training[order[at * n : at * n + n]], held_out])
        pairs = space.all_pairs(synthetic, both)
        shares.append(_first_half_is_nearer(pairs))
        mixed += [_first_half_is_nearer(pairs[:, draw.permutation(2 * n)]) for _ in range(_RELABELLINGS)]
    low, high = np.quantile(mixed, [0.025, 0.975])
    return float(np.mean(shares)), min(shares), max(shares), 0.5, float(low), float(high)


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
