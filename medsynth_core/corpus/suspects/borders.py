"""Uniform borders around a film."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medsynth_core.corpus.records import Pixels
from medsynth_core.corpus.suspects.looks import Field

_ENOUGH = 512
"""Pixels of a side that are looked at."""


class Borders(NamedTuple):
    """Rows and columns of each border."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


def trimmed(pixels: Pixels) -> tuple[Pixels, Borders]:
    """Returns a film without its borders, and what was trimmed; those of a large one to a few pixels."""
    step = max(1, min(pixels.shape) // _ENOUGH)
    found = Borders(*(step * each for each in borders(pixels[::step, ::step])))
    height, width = pixels.shape
    return pixels[found.top : height - found.bottom, found.left : width - found.right], found


def borders(image: Pixels) -> Borders:
    """Returns how many uniform rows and columns to trim.

    A bar is black or white, at least 2 % of the film's side wide, and may carry the noise of JPEG coding, as do the
    last lines before the film. An image that is one bar all over is left alone.

    Args:
        image: [H, W] in 0..255.
    """
    field = image.astype(np.float32)
    top, bottom = _bar(field), _bar(field[::-1])
    if top + bottom >= len(field):
        return Borders()
    columns = field[top : len(field) - bottom].T
    left, right = _bar(columns), _bar(columns[::-1])
    if left + right >= len(columns):
        return Borders()
    return Borders(top, bottom, left, right)


def _bar(lines: Field) -> int:
    """Returns how many of the first lines, float32 [n, length], are a bar."""
    level = np.median(lines[:2])
    if 24 < level < 232:
        return 0
    away = np.abs(lines - level)
    mean, far = away.mean(1), (away > 12).mean(1)
    width = _run((mean < 4.0) & (far < 0.03))
    least = max(2, round(0.02 * len(lines)))
    sure = _run((mean < 1.5) & (far < 0.002))
    return width if width >= least and sure >= width // 2 else 0


def _run(flags: npt.NDArray[np.bool_]) -> int:
    """Returns how many flags are set before the first that isn't."""
    return len(flags) if flags.all() else int(np.argmin(flags))
