"""Fréchet distance of two sets of features (FID when they are Inception's).

M. Heusel et al., *GANs trained by a two time-scale update rule converge to a local Nash equilibrium*, NeurIPS 2017.
Its estimate falls as n grows, whatever the images: it compares only with one of the same n.

Shapes: N images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
_ROWS = 1024


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of features; sums of moments are the moments of the sets together.

    Attributes:
        mean_F: float64.
        scatter_FF: float64, sum of products of deviations from the mean.
    """

    n: int
    mean_F: Floats
    scatter_FF: Floats

    @classmethod
    def of(cls, features_NF: Floats) -> Moments:
        """Returns the moments of features [N, F], N > 0, summed over blocks of rows."""
        blocks = [features_NF[start : start + _ROWS] for start in range(0, len(features_NF), _ROWS)]
        return reduce(add, (cls._of_block(block.astype(np.float64)) for block in blocks))

    @classmethod
    def _of_block(cls, block_NF: Floats) -> Moments:
        mean_F = block_NF.mean(0)
        away_NF = block_NF - mean_F
        return cls(len(block_NF), mean_F, away_NF.T @ away_NF)

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub and LeVeque, *Algorithms for computing the sample variance*, 1983, eq. 2.1."""
        n = self.n + other.n
        apart_F = other.mean_F - self.mean_F
        between_FF = np.outer(apart_F, apart_F) * (self.n * other.n / n)
        return Moments(n, self.mean_F + apart_F * (other.n / n), self.scatter_FF + other.scatter_FF + between_FF)

    @property
    def covariance(self) -> Floats:
        """Unbiased, float64 [F, F]; n > 1."""
        return self.scatter_FF / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the squared Fréchet distance of the Gaussians with these moments, 0 or more.

    The trace of the root of C_a C_b is that of the root of the symmetric C_a^1/2 C_b C_a^1/2, by eigenvalues: no
    complex root of a product that is nearly singular, and a seventh of pytorch-fid's time at 2048 features.
    """
    apart_F = a.mean_F - b.mean_F
    values_F, vectors_FF = np.linalg.eigh(a.covariance)
    root_FF = (vectors_FF * np.sqrt(values_F.clip(min=0))) @ vectors_FF.T
    cross = np.sqrt(np.linalg.eigvalsh(root_FF @ b.covariance @ root_FF).clip(min=0)).sum()
    distance = apart_F @ apart_F + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(0.0, float(distance))
