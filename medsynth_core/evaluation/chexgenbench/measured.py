"""What was measured: a row a figure, and how intervals over prompts are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import group_weights, value_with_interval
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
_DRAWS = 400


@dataclass(frozen=True)
class Measured:
    """One figure of all images, or of those with one pathology.

    Attributes:
        role: whose network's figure it is.
        network: the entry that plays it.
        label: one of ``protocol.PATHOLOGIES``; None of all images.
        n: synthetic images that enter, or training prompts.
        n_real: real images that they are compared with.
        value: None when there is none for ``reason``.
        low, high: 95 % interval, by bootstrap over prompts, where the figure has one.
        control: the same figure of what ``control_of`` names, None where there is nothing to take it of.
        reason: why there is no value, or what weakens it.
    """

    metric: str
    role: str
    network: str
    label: str | None
    n: int
    n_real: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    control: float | None = None
    control_of: str | None = None
    reason: str | None = None


def mean_with_interval(values_N: Floats, groups: Sequence[str], seed: int) -> tuple[float, float, float]:
    """Returns the mean and its 95 % interval by bootstrap over groups; the mean of one group has none of width."""
    weights_DN = group_weights(groups, _DRAWS, stream(seed, "chexgenbench.groups"))
    means_D = (weights_DN @ values_N) / weights_DN.sum(1)
    return value_with_interval(means_D)
