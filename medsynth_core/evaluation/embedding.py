"""A t-SNE map of real and synthetic features: to look at, not to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
_COLOURS = {"held-out real": "#1f6feb", "synthetic": "#bf5700"}


def embed(held_out_NF: Floats, synthetic_MF: Floats, seed: int) -> dict[str, Floats]:
    """Returns the places [N, 2] and [M, 2] of both sides on one map, by name; 4 rows or more together.

    L. van der Maaten, G. Hinton, *Visualizing data using t-SNE*, JMLR 9, 2008; perplexity 30 where there is room.
    """
    both = np.concatenate([held_out_NF, synthetic_MF])
    places = TSNE(perplexity=min(30.0, (len(both) - 1) / 3), init="pca", max_iter=500, random_state=seed).fit_transform(
        both
    )
    return dict(zip(_COLOURS, np.split(places, [len(held_out_NF)]), strict=True))


def map_table(places: dict[str, Floats]) -> str:
    """Returns the map as CSV, for ``dvc plots``."""
    rows = [f"{x:.3f},{y:.3f},{side}\n" for side, points in places.items() for x, y in points]
    return "".join(["x,y,images\n", *rows])


def draw_map(places: dict[str, Floats], title: str, path: Path) -> None:
    """Writes a PNG; points are drawn in mixed order, so that neither side covers the other."""
    figure = Figure(figsize=(7, 6.2), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = np.concatenate(list(places.values()))
    colours = np.repeat([_COLOURS[side] for side in places], [len(part) for part in places.values()])
    order = stream(0, "evaluation.map").permutation(len(points))
    axes.scatter(points[order, 0], points[order, 1], s=9, c=colours[order], alpha=0.7, linewidths=0)
    for side, part in places.items():
        axes.scatter([], [], s=24, c=_COLOURS[side], label=f"{side} ({len(part)})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10, parse_math=False)
    figure.savefig(path, format="png", metadata={"Software": None})
