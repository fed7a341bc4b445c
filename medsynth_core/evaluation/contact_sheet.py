"""The contact sheet: prompt, keypatches, image and verdict of some images on one picture."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


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
    """Writes a PNG with one cell an item; keypatches are outlined on the image, the best ones brightest."""
    rows = -(-len(items) // columns)
    figure = Figure(figsize=(3.4 * columns, 4.3 * rows + 0.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for item, axes in zip(items, grid.flat, strict=False):
        _draw(item, axes)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / (4.3 * rows + 0.6)))
    figure.savefig(path, metadata={"Software": None})


def as_data_url(path: Path) -> str:
    """Returns a PNG as a data URL, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _draw(item: SheetItem, axes: Axes) -> None:
    size = item.image_u8.shape[0]
    axes.imshow(item.image_u8, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    step = size / item.side
    for rank, cell in enumerate(item.cells[:8]):
        row, column = divmod(cell, item.side)
        axes.add_patch(
            Rectangle(
                (column * step - 0.5, row * step - 0.5),
                step,
                step,
                fill=False,
                linewidth=1.2,
                edgecolor="#ffb000",
                alpha=1.0 - 0.09 * rank,
            )
        )
    accepted = item.verdict == "accepted"
    axes.set_title(item.verdict, fontsize=8, color="white", backgroundcolor="#1a7f37" if accepted else "#b42318", pad=5)
    words = ", ".join(dict.fromkeys(item.words[:8]))
    text = "\n".join(textwrap.wrap(item.prompt, 46)[:6])
    keys = "\n".join(textwrap.wrap(f"keypatches: {words}" if words else "no keypatches", 46)[:2])
    axes.text(0.0, -0.04, text, transform=axes.transAxes, fontsize=7, va="top")
    axes.text(0.0, -0.42, keys, transform=axes.transAxes, fontsize=7, va="top", color="#8a5a00")
