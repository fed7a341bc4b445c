"""Two distributions over the same bins, as the geometry of a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 130
"""Units of the drawing's own coordinates."""


@dataclass(frozen=True)
class Histogram:
    """A drawing of what is synthetic (filled) and of what is held out (a line).

    Attributes:
        synthetic, held_out: SVG paths in a box of ``WIDTH`` x ``HEIGHT``.
        ticks: place and text along the axis.
    """

    title: str
    synthetic: str
    held_out: str
    ticks: tuple[tuple[float, str], ...]


def histograms(found: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[Histogram]:
    """Returns a drawing for each space, from edges [B + 1] and the shares [B] of both sides."""
    drawn = []
    for space, about in found.items():
        edges, sides = about["edges"], (about["synthetic"], about["held_out"])
        most = max((share for side in sides for share in side), default=0.0)
        if len(edges) < 2 or most <= 0 or edges[-1] <= edges[0]:
            continue
        paths = [_steps(edges, side, most) for side in sides]
        at = (edges[0], (edges[0] + edges[-1]) / 2, edges[-1])
        ticks = tuple((_x(edges, edge), f"{edge:.3g}") for edge in at)
        drawn.append(Histogram(titles.get(space, space), f"{paths[0]}Z", paths[1], ticks))
    return drawn


def _steps(edges: Sequence[float], shares: Sequence[float], most: float) -> str:
    """Returns the outline of bars that stand on the axis."""
    parts = [f"M{_x(edges, edges[0]):.1f} {HEIGHT}"]
    for share, end in zip(shares, edges[1:], strict=True):
        parts.append(f"V{HEIGHT * (1 - share / most):.1f}H{_x(edges, end):.1f}")
    return "".join([*parts, f"V{HEIGHT}"])


def _x(edges: Sequence[float], value: float) -> float:
    return WIDTH * (value - edges[0]) / (edges[-1] - edges[0])
