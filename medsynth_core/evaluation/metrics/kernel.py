"""Kernel distance of two sets of features (KID when they are Inception's).

M. Bińkowski et al., *Demystifying MMD GANs*, ICLR 2018: the unbiased estimate of the squared maximum mean discrepancy
under the kernel (x.y / F + 1)^3. It doesn't fall as n grows, and is negative for half of all equal distributions.

Shapes: N and M images, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def kernel_distance(
    a_NF: Floats, b_MF: Floats, draw: np.random.Generator, subsets: int, subset_size: int
) -> tuple[float, float]:
    """Returns the mean over random subsets of both sets, and its standard error.

    A subset has half the images of each set, or a smaller share when that is more than ``subset_size``. The error is
    the delete-d jackknife's (J. Shao, C. F. J. Wu, Ann. Stat. 17, 1989), the spread of subsets times
    sqrt(share / (1 - share)): right where the sets differ, up to sqrt(3) too large where they don't.

    Args:
        a_NF, b_MF: four rows or more.
    """
    share = min(0.5, subset_size / max(len(a_NF), len(b_MF)))
    values = [squared_discrepancy(_subset(a_NF, share, draw), _subset(b_MF, share, draw)) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(share / (1 - share)))


def squared_discrepancy(a_NF: Floats, b_MF: Floats) -> float:
    """Returns the unbiased MMD^2 (eq. 4), which may be negative."""
    n, m = len(a_NF), len(b_MF)
    within_a, within_b = _kernel(a_NF, a_NF), _kernel(b_MF, b_MF)
    own = (within_a.sum() - np.trace(within_a)) / (n * (n - 1)) + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(own - 2 * _kernel(a_NF, b_MF).mean())


def _kernel(a_NF: Floats, b_MF: Floats) -> Floats:
    return (a_NF @ b_MF.T / a_NF.shape[1] + 1) ** 3


def _subset(features_NF: Floats, share: float, draw: np.random.Generator) -> Floats:
    size = max(2, int(share * len(features_NF)))
    return features_NF[draw.choice(len(features_NF), size, replace=False)].astype(np.float64)
