"""AUROC and balanced accuracy of many weightings of the same images at once, as a bootstrap asks.

Shapes: D weightings, N images, T terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


def aurocs(scores_NT: Floats, truth_NT: Bools, weights_DN: Floats) -> Floats:
    """Returns the AUROC of each term under each weighting of the images, [D, T]; NaN where all or none have it."""
    areas_DT = np.empty((len(weights_DN), scores_NT.shape[1]))
    for term in range(scores_NT.shape[1]):
        areas_DT[:, term] = _auroc(scores_NT[:, term], truth_NT[:, term], weights_DN)
    return areas_DT


def balanced_accuracies(found_NT: Bools, truth_NT: Bools, weights_DN: Floats) -> Floats:
    """Returns the mean of sensitivity and specificity, [D, T]; NaN where all or none have the term."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = weights_DN @ (found_NT & truth_NT) / (weights_DN @ truth_NT)
        specificity = weights_DN @ ~(found_NT | truth_NT) / (weights_DN @ ~truth_NT)
    accuracies: Floats = (sensitivity + specificity) / 2
    return accuracies


def _auroc(scores_N: Floats, truth_N: Bools, weights_DN: Floats) -> Floats:
    """Returns the weight of pairs in the right order over that of all pairs of a case and a control; ties count half
    (Mann-Whitney)."""
    order = np.argsort(scores_N, kind="stable")
    _, starts = np.unique(scores_N[order], return_index=True)
    cases, controls = (
        np.add.reduceat(weights_DN[:, order] * chosen[order], starts, axis=1) for chosen in (truth_N, ~truth_N)
    )
    below = controls.cumsum(axis=1) - controls
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = (cases * (below + controls / 2)).sum(1) / (cases.sum(1) * controls.sum(1))
    return areas
