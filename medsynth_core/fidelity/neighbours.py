"""Precision, recall, density and coverage of features, by the balls that reach to each image's k-th neighbour.

T. Kynkäänniemi et al., *Improved precision and recall metric for assessing generative models*, NeurIPS 2019;
M. F. Naeem et al., *Reliable fidelity and diversity metrics for generative models*, ICML 2020. All four depend on the
numbers of images: they compare only with figures of the same numbers.

Shapes: N real and M synthetic images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics.pairwise import euclidean_distances

Floats = npt.NDArray[np.floating[Any]]
_ROWS = 512


@dataclass(frozen=True)
class Neighbourhoods:
    """Shares in 0..1; density may exceed 1.

    Attributes:
        precision: of synthetic images that lie in the ball of any real one.
        recall: of real images that lie in the ball of any synthetic one.
        density: real balls that hold a synthetic image, over k; mean.
        coverage: of real images whose ball holds a synthetic one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real_NF: Floats, fake_MF: Floats, k: int) -> Neighbourhoods:
    """Returns the four figures, distances taken over blocks of rows; both sets have more than ``k`` rows."""
    real_NF, fake_MF = real_NF.astype(np.float64), fake_MF.astype(np.float64)
    real_radius_N, fake_radius_M = _radii(real_NF, k), _radii(fake_MF, k)
    balls_M = np.zeros(len(fake_MF))
    recalled_N, nearest_N = np.zeros(len(real_NF), dtype=bool), np.full(len(real_NF), np.inf)
    for start in range(0, len(fake_MF), _ROWS):
        block = slice(start, start + _ROWS)
        distance_NB = euclidean_distances(real_NF, fake_MF[block])
        balls_M[block] = (distance_NB < real_radius_N[:, None]).sum(0)
        recalled_N |= (distance_NB < fake_radius_M[block]).any(1)
        nearest_N = np.minimum(nearest_N, distance_NB.min(1))
    return Neighbourhoods(
        float((balls_M > 0).mean()),
        float(recalled_N.mean()),
        float(balls_M.mean() / k),
        float((nearest_N < real_radius_N).mean()),
    )


def _radii(features_NF: Floats, k: int) -> Floats:
    """Returns each row's distance to its k-th neighbour; it is its own 0-th."""
    blocks = [features_NF[start : start + _ROWS] for start in range(0, len(features_NF), _ROWS)]
    return np.concatenate([np.partition(euclidean_distances(block, features_NF), k)[:, k] for block in blocks])
