"""AUROC and balanced accuracy of many weightings of the same images at once, as a bootstrap asks.

Shapes: D weightings, N images, T terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import auroc

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


def aurocs(scores_NT: Floats, truth_NT: Bools, weights_DN: Floats) -> Floats:
    """Returns the AUROC of each term under each weighting of the images, [D, T]; NaN where all or none have it."""
    areas_DT = np.empty((len(weights_DN), scores_NT.shape[1]))
    for term in range(scores_NT.shape[1]):
        areas_DT[:, term] = auroc(scores_NT[:, term], truth_NT[:, term], weights_DN)
    return areas_DT


def balanced_accuracies(found_NT: Bools, truth_NT: Bools, weights_DN: Floats) -> Floats:
    """Returns the mean of sensitivity and specificity, [D, T]; NaN where all or none have the term."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = weights_DN @ (found_NT & truth_NT) / (weights_DN @ truth_NT)
        specificity = weights_DN @ ~(found_NT | truth_NT) / (weights_DN @ ~truth_NT)
    accuracies: Floats = (sensitivity + specificity) / 2
    return accuracies
