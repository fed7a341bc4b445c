"""What a judge finds in synthetic images against what was prompted, beside what it finds in held-out real images
against what mining read in their reports.

Shapes: N images, T terms, D draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import group_weights, value_with_interval
from medsynth_core.evaluation.figures import Figure
from medsynth_core.evaluation.image_sets import ImageSet
from medsynth_core.evaluation.metrics.classification import aurocs, balanced_accuracies
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
METRICS = ("auroc", "balanced_accuracy")
_MIN_CASES = 8
"""A term is judged when so many images of either side have it, and as many don't."""
_DRAWS = 1000


@dataclass(frozen=True)
class Judged:
    """Images of one side by one judge.

    Attributes:
        margins_NT: float32, by how much each term is found; above 0 is found, NaN where the judge doesn't know it.
        truth_NT: bool, prompted or mined.
        groups: prompt or patient of each image: what is drawn anew in the bootstrap, since images of one are alike.
    """

    margins_NT: Floats
    truth_NT: npt.NDArray[np.bool_]
    groups: Sequence[str]

    @classmethod
    def of(cls, side: ImageSet, terms: Sequence[str], margins_NK: Floats, known: Sequence[str]) -> Judged:
        """Returns a side judged by ``terms``, from the margins of those that the judge knows."""
        margins_NT = np.full((len(side), len(terms)), np.nan, dtype=np.float32)
        for place, term in enumerate(terms):
            if term in known:
                margins_NT[:, place] = margins_NK[:, known.index(term)]
        return cls(margins_NT, side.shows(terms), side.groups)

    def n_cases(self) -> npt.NDArray[np.int64]:
        """Returns how many images have each term, or don't, whichever are fewer; int64 [T]."""
        having = self.truth_NT.sum(0)
        fewer: npt.NDArray[np.int64] = np.minimum(having, len(self.truth_NT) - having)
        return fewer


def judged_figures(name: str, terms: Sequence[str], synthetic: Judged, held_out: Judged, seed: int) -> Iterator[Figure]:
    """Yields AUROC and balanced accuracy of all terms (the mean over them) and of each, with 95 % intervals by
    bootstrap on both sides.

    A term of which either side has too few cases has no figure and doesn't enter the mean.

    Args:
        name: what the figures call the judge, and what it judges.
        terms: of the columns.
    """
    known = np.array([not np.isnan(margins_N).any() for margins_N in synthetic.margins_NT.T])
    enough = np.minimum(synthetic.n_cases(), held_out.n_cases()) >= _MIN_CASES
    usable = np.flatnonzero(known & enough)
    ours, theirs = (_values(side, usable, seed) for side in (synthetic, held_out))
    n = len(synthetic.truth_NT), len(held_out.truth_NT)
    for metric in METRICS:
        if len(usable):
            means = [value_with_interval(_mean_of_terms(side[metric])) for side in (ours, theirs)]
            yield Figure(metric, name, None, *n, *means[0], *means[1])
        else:
            yield Figure(metric, name, None, *n, reason=f"no finding that the judge knows has {_MIN_CASES} cases")
    columns = {int(place): column for column, place in enumerate(usable)}
    for place, term in enumerate(terms):
        about = (name, term, int(synthetic.truth_NT[:, place].sum()), int(held_out.truth_NT[:, place].sum()))
        for metric in METRICS:
            if place in columns:
                values = [value_with_interval(side[metric][:, columns[place]]) for side in (ours, theirs)]
                yield Figure(metric, *about, *values[0], *values[1])
            elif known[place]:
                yield Figure(metric, *about, reason=f"fewer than {_MIN_CASES} images with it or without it")
            else:
                yield Figure(metric, *about, reason="the judge doesn't know it")


def _values(side: Judged, usable: npt.NDArray[np.int64], seed: int) -> dict[str, Floats]:
    """Returns each metric of the usable terms, [1 + D, T]: of the images as they are, then of each draw."""
    weights_DN = group_weights(side.groups, _DRAWS, stream(seed, "evaluation.judged"))
    margins, truth = side.margins_NT[:, usable], side.truth_NT[:, usable]
    return {
        "auroc": aurocs(margins, truth, weights_DN),
        "balanced_accuracy": balanced_accuracies(margins > 0, truth, weights_DN),
    }


def _mean_of_terms(values_DT: Floats) -> Floats:
    """Returns the mean over the terms that have a value; NaN in a draw where none has."""
    with np.errstate(invalid="ignore"):
        means: Floats = np.nansum(values_DT, axis=1) / np.isfinite(values_DT).sum(axis=1)
    return means
