"""What chance explains of a figure: intervals of shares and of statistics, and the area under a ROC curve of weighted
images.

Shapes: D weightings, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
_RESAMPLES = 400


def share_with_interval(hits: Bools) -> tuple[float, float, float]:
    """Returns the share of true ones and its 95 % interval (E. B. Wilson, JASA 22, 1927)."""
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return float(hits.mean()), float(found.low), float(found.high)


def resampled_interval(
    statistic: Callable[..., float], samples: Sequence[Floats], draw: np.random.Generator, *, paired: bool = False
) -> tuple[float, float]:
    """Returns the 95 % interval of a statistic of one or several samples [N], by bootstrap over each of them, or over
    all at once when ``paired``."""
    found = stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=_RESAMPLES,
        paired=paired,
        vectorized=False,
        method="percentile",
        rng=draw,
    ).confidence_interval
    return float(found.low), float(found.high)


def group_weights(groups: Sequence[str], n_draws: int, draw: np.random.Generator) -> Floats:
    """Returns how often each image counts, float32 [1 + D, N]: once, then as often as its group is drawn anew, since
    the images of one patient or prompt are alike."""
    names, group_N = np.unique(np.array(groups), return_inverse=True)
    times_DG = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), n_draws)
    return np.concatenate([np.ones((1, len(group_N))), times_DG[:, group_N]]).astype(np.float32)


def auroc(scores_N: Floats, truth_N: Bools, weights_DN: Floats) -> Floats:
    """Returns the weight of pairs in the right order over that of all pairs of a case and a control, [D]; ties count
    half (Mann-Whitney); NaN where all or none are cases."""
    order = np.argsort(scores_N, kind="stable")
    _, starts = np.unique(scores_N[order], return_index=True)
    cases, controls = (
        np.add.reduceat(weights_DN[:, order] * chosen[order], starts, axis=1) for chosen in (truth_N, ~truth_N)
    )
    below = controls.cumsum(axis=1) - controls
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = (cases * (below + controls / 2)).sum(1) / (cases.sum(1) * controls.sum(1))
    return areas


def value_with_interval(values_D: Floats) -> tuple[float, float, float]:
    """Returns the first value and the 95 % interval of the others; those that are NaN say nothing."""
    low, high = np.nanquantile(values_D[1:], [0.025, 0.975])
    return float(values_D[0]), float(low), float(high)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a figure's fields with numbers of five digits."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
