"""The contact sheet: prompt, keypatches, image and verdict of some images on one picture."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_IMAGE_IN = 3.1
_PROMPT_LINES = 6
_KEY_LINES = 2
_LINE_IN = 0.14
_TITLE_IN = 0.6
_GAP_IN = 0.35
_CHARACTERS_A_LINE = 52
_KEYPATCHES = 8
_GOOD, _BAD, _KEY = "#1a7f37", "#b42318", "#8a5a00"


@dataclass(frozen=True)
class SheetItem:
    """One cell of the sheet.

    Attributes:
        image_u8: uint8 [H, W].
        cells: row-major latent cells of the keypatches, best first; ``words``: the word that chose each.
        side: cells along one side of the image.
        verdict: accepted, or the reason of rejection.
    """

    image_u8: npt.NDArray[np.uint8]
    prompt: str
    cells: Sequence[int]
    words: Sequence[str]
    side: int
    verdict: str


def contact_sheet(items: Sequence[SheetItem], title: str, path: Path, columns: int = 4) -> None:
    """Writes a PNG with one cell an item, of the same bytes for the same items.

    The best keypatches are outlined on the image where they were taken from, numbered by rank; the caption says
    which word chose which.
    """
    rows = max(1, -(-len(items) // columns))
    most_lines = max((len(_prompt(item)) + len(_keys(item)) for item in items), default=0)
    text_in = (most_lines + 2) * _LINE_IN
    row_in = _IMAGE_IN + text_in + _GAP_IN
    width, height = columns * (_IMAGE_IN + _GAP_IN) + _GAP_IN, rows * row_in + _TITLE_IN
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.4 / height, title, fontsize=12, ha="center", parse_math=False)
    for index, item in enumerate(items):
        row, column = divmod(index, columns)
        left, bottom = _GAP_IN + column * (_IMAGE_IN + _GAP_IN), (rows - 1 - row) * row_in + text_in
        box = (left / width, bottom / height, _IMAGE_IN / width, _IMAGE_IN / height)
        axes = figure.add_axes(box)
        _draw_image(item, axes)
        _draw_text(item, axes)
    figure.savefig(path, format="png", metadata={"Software": None})


def as_data_url(path: Path) -> str:
    """Returns a PNG as a data URL, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def key_caption(words: Sequence[str]) -> str:
    """Returns which ranks each word chose, words in order of their best: ``effusion 1 3, left 2``."""
    ranks: dict[str, list[int]] = {}
    for rank, word in enumerate(words[:_KEYPATCHES], start=1):
        ranks.setdefault(word, []).append(rank)
    chosen = ", ".join(f"{word} {' '.join(map(str, numbers))}" for word, numbers in ranks.items())
    return f"keypatches: {chosen}" if chosen else "no keypatches"


def _draw_image(item: SheetItem, axes: Axes) -> None:
    axes.set_axis_off()
    axes.imshow(item.image_u8, cmap="gray", vmin=0, vmax=255, interpolation="bicubic", aspect="equal")
    step = item.image_u8.shape[0] / item.side
    ranks: dict[int, list[int]] = {}
    for rank, cell in enumerate(item.cells[:_KEYPATCHES], start=1):
        ranks.setdefault(cell, []).append(rank)
    for cell, chosen in ranks.items():
        row, column = divmod(cell, item.side)
        left, top = column * step - 0.5, row * step - 0.5
        axes.add_patch(Rectangle((left, top), step, step, fill=False, linewidth=1.2, edgecolor="#ffb000"))
        label = " ".join(map(str, chosen))
        axes.text(left + 0.08 * step, top + 0.08 * step, label, fontsize=6, va="top", color="#ffd060")


def _draw_text(item: SheetItem, axes: Axes) -> None:
    badge = {"boxstyle": "square,pad=0.35", "facecolor": _GOOD if item.verdict == "accepted" else _BAD, "linewidth": 0}
    place: dict[str, Any] = {"transform": axes.transAxes, "parse_math": False}
    axes.text(0.015, 1.03, item.verdict, fontsize=8, color="white", bbox=badge, **place)
    place |= {"va": "top", "fontsize": 8, "linespacing": 1.15}
    prompt = _prompt(item)
    axes.text(0.0, -0.03, "\n".join(prompt), **place)
    below = -0.04 - len(prompt) * _LINE_IN / _IMAGE_IN
    axes.text(0.0, below, "\n".join(_keys(item)), color=_KEY, **place)


def _prompt(item: SheetItem) -> list[str]:
    return _lines(item.prompt, _PROMPT_LINES)


def _keys(item: SheetItem) -> list[str]:
    return _lines(key_caption(item.words), _KEY_LINES)


def _lines(text: str, most: int) -> list[str]:
    return textwrap.wrap(text, _CHARACTERS_A_LINE, max_lines=most, placeholder=" …")
