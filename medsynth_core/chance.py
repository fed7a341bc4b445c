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
Groups = Sequence[str | int]
"""Of each image the patient or the prompt that it is of."""
_RESAMPLES = 400


def share_with_interval(hits: Bools, groups: Groups | None = None) -> tuple[float, float, float]:
    """Returns the share of true ones and its 95 % interval (E. B. Wilson, JASA 22, 1927).

    Args:
        groups: of each image its patient, say; the interval is then that of as many independent images as the groups
            are worth (``independent_images``).
    """
    if groups is None:
        found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        return float(hits.mean()), float(found.low), float(found.high)
    share, n = float(hits.mean()), independent_images(hits, groups)
    z2 = float(stats.norm.ppf(0.975)) ** 2
    centre, half = share + z2 / (2 * n), np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))
    return share, max(0.0, float((centre - half) / (1 + z2 / n))), min(1.0, float((centre + half) / (1 + z2 / n)))


def independent_images(hits: Bools, groups: Groups) -> float:
    """Returns how many independent images tell as much of a share as these do, whose groups are alike: their number
    over the design effect, corrected for few groups (E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998).

    Where all hit or none does, nothing is seen of how alike they are; then as if those of a group always agreed (L.
    Kish, *Survey Sampling*, 1965, section 8.2).
    """
    n, share = len(hits), float(hits.mean())
    _, group_N = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(group_N)
    least = n**2 / float((sizes.astype(np.float64) ** 2).sum())
    variance = float((np.bincount(group_N, hits - share) ** 2).sum()) / n**2
    alone = share * (1 - share)
    worth = least if alone == 0 else min(float(n), max(least, alone / variance if variance > 0 else float(n)))
    few = stats.t.ppf(0.975, max(1, n - 1)) / stats.t.ppf(0.975, max(1, len(sizes) - 1))
    return float(worth * few**2)


def resampled_interval(
    statistic: Callable[..., float],
    samples: Sequence[Floats],
    draw: np.random.Generator,
    *,
    paired: bool = False,
    groups: Sequence[Groups | None] | None = None,
) -> tuple[float, float]:
    """Returns the 95 % interval of a statistic of one or several samples [N], by bootstrap over each of them, or over
    all at once when ``paired``.

    Args:
        groups: of each sample the group of its images, which are drawn together (the patients are resampled, not their
            films); None for a sample whose images stand for themselves. Not with ``paired``.
    """
    if groups is not None:
        return _interval_over_groups(statistic, samples, groups, draw)
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


def _interval_over_groups(
    statistic: Callable[..., float],
    samples: Sequence[Floats],
    groups: Sequence[Groups | None],
    draw: np.random.Generator,
) -> tuple[float, float]:
    times = [
        group_weights(range(len(sample)) if of is None else of, _RESAMPLES, draw)[1:].astype(np.int64)
        for sample, of in zip(samples, groups, strict=True)
    ]
    drawn = [
        statistic(*(np.repeat(sample, of[place]) for sample, of in zip(samples, times, strict=True)))
        for place in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def group_weights(groups: Groups, n_draws: int, draw: np.random.Generator) -> Floats:
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
