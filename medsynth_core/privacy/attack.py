"""What an attacker found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medsynth_core.privacy.membership import membership_figures
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.space import Space, distance_figures


@dataclass(frozen=True)
class Attack:
    """The figures of one attacker.

    Attributes:
        space: where images were compared; None of who compares none.
    """

    figures: list[RiskFigure]
    space: Space | None = None


def in_space(space: Space, seed: int, more: Iterable[RiskFigure] = ()) -> Attack:
    """Returns the figures of who compares images in a space, after ``more`` of its own."""
    return Attack([*more, *distance_figures(space, seed), *membership_figures(space, seed)], space)
