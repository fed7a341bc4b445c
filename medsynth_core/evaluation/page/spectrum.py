"""Power by frequency of three sides, as the geometry of a drawing in the box of ``histogram``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsynth_core.evaluation.page.histogram import HEIGHT, WIDTH


@dataclass(frozen=True)
class Spectrum:
    """A drawing of power by frequency.

    Attributes:
        synthetic: SVG path of an area that stands on the axis.
        rendered, real: SVG paths of lines.
        ticks: place and text along the axis.
    """

    synthetic: str
    rendered: str
    real: str
    ticks: tuple[tuple[float, str], ...]


def spectrum(found: Mapping[str, Sequence[float]]) -> Spectrum | None:
    """Returns the drawing of log10 powers [B] at frequencies [B] in cycles an image; None where there are fewer than
    two."""
    frequencies = found.get("frequency", ())
    if len(frequencies) < 2:
        return None
    sides = [found[name] for name in ("synthetic", "rendered", "real")]
    low, high = min(map(min, sides)), max(map(max, sides))
    scale = HEIGHT / ((high - low) or 1.0)
    step = WIDTH / (frequencies[-1] - frequencies[0])
    lines = [
        "L".join(
            f"{(frequency - frequencies[0]) * step:.1f} {(high - power) * scale:.1f}"
            for frequency, power in zip(frequencies, side, strict=True)
        )
        for side in sides
    ]
    at = (frequencies[0], (frequencies[0] + frequencies[-1]) // 2, frequencies[-1])
    ticks = tuple(((frequency - frequencies[0]) * step, f"{frequency:g}") for frequency in at)
    return Spectrum(f"M0 {HEIGHT}L{lines[0]}L{WIDTH} {HEIGHT}Z", f"M{lines[1]}", f"M{lines[2]}", ticks)
