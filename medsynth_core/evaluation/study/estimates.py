"""Estimates from answers, each with an interval from films that are drawn anew, and Cohen's kappa.

Shapes: D weightings of films (the first counts each once, the others are draws), F films, T findings; in answers NaN is
what wasn't answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import share_with_interval

Floats = npt.NDArray[np.floating[Any]]
_DRAWN_ENOUGH = 0.5
"""Share of the draws that must have a value for an interval to be given."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None where it has none.

    Attributes:
        n: answers that it is of.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def share(hits_F: Floats) -> Estimate:
    """Returns the share of 1 among answers of 0 and 1, with Wilson's interval."""
    known = hits_F[~np.isnan(hits_F)]
    if not len(known):
        return Estimate(None, None, None, 0)
    return Estimate(*share_with_interval(known > 0), len(known))


def estimate(values_D: Floats, n: int, interval: bool = True) -> Estimate:
    """Returns the first value, with the range of 95 % of the others; those that are NaN say nothing.

    Args:
        interval: whether there is enough for one.
    """
    drawn = values_D[1:][~np.isnan(values_D[1:])]
    if np.isnan(values_D[0]):
        return Estimate(None, None, None, n)
    if not interval or len(drawn) < _DRAWN_ENOUGH * (len(values_D) - 1):
        return Estimate(float(values_D[0]), None, None, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values_D[0]), float(low), float(high), n)


def means(values_F: Floats, weights_DF: Floats) -> Floats:
    """Returns the mean of what was answered by weighting, [D]; NaN where nothing was."""
    known = ~np.isnan(values_F)
    with np.errstate(invalid="ignore"):
        found: Floats = weights_DF[:, known] @ values_F[known] / weights_DF[:, known].sum(1)
    return found


def kappas(a: Floats, b: Floats, weights_DF: Floats) -> Floats:
    """Returns Cohen's kappa with quadratic weights by weighting, [D]; NaN where both always say the same one thing.

    Disagreement over that of independent answers: 1 - E(a - b)^2 / (E a^2 + E b^2 - 2 E a E b). Of yes and no, 1 and 0,
    it is plain kappa (J. Cohen, Psychol. Bull. 70, 1968).

    Args:
        a, b: answers [F], or [F, T] whose columns are pooled.
    """
    a_FT, b_FT = (each.reshape(len(each), -1) for each in (a, b))
    known_FT = ~(np.isnan(a_FT) | np.isnan(b_FT))
    a_FT, b_FT = np.where(known_FT, a_FT, 0.0), np.where(known_FT, b_FT, 0.0)

    def total(values_FT: Floats) -> Floats:
        summed: Floats = weights_DF.astype(np.float64) @ values_FT.sum(1)
        return summed

    with np.errstate(invalid="ignore", divide="ignore"):
        n = total(known_FT.astype(float))
        expected = (total(a_FT**2) + total(b_FT**2)) / n - 2 * total(a_FT) * total(b_FT) / n**2
        kappa: Floats = 1 - total((a_FT - b_FT) ** 2) / n / expected
    return np.where(expected > 1e-12, kappa, np.nan)


def mean_over(values: Sequence[Floats]) -> Floats:
    """Returns the mean over readers by weighting, [D]; one who has none in a weighting doesn't enter it."""
    stacked_RD = np.stack(values)
    with np.errstate(invalid="ignore"):
        found: Floats = np.nansum(stacked_RD, axis=0) / np.isfinite(stacked_RD).sum(axis=0)
    return found
