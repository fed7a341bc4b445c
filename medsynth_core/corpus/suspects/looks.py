"""What a film looks like: its grey flattened, and the directions of its edges by place.

Turning, mirroring or inverting a film only moves the numbers of its edges about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.records import ImageU8

Field = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

SIDE = 64
"""Height and width of a thumbnail."""
CELLS = 16
BINS = 8
CHUNK = 256


def flattened(thumbnails: ImageU8, reach: float) -> Field:
    """Returns films less their local mean, over their local spread, float32 [N, 64, 64]."""
    films = thumbnails.astype(np.float32) / 255
    rest = films - gaussian_filter(films, (0, reach, reach))
    return rest / (np.sqrt(gaussian_filter(rest**2, (0, reach, reach))) + 0.03)


def pooled(films: Field, cell: int) -> Field:
    """Returns the means of square cells, [N, 64 / cell, 64 / cell]."""
    return films.reshape(len(films), SIDE // cell, cell, SIDE // cell, cell).mean((2, 4))


def edges_of(films: Field) -> Field:
    """Returns the strength of edges by direction and place, float32 [N, 8, 16, 16], each place of unit length at most.

    Bin k holds slopes that rise towards k x 45 degrees, clockwise from the image's right.

    Args:
        films: flattened, [N, 64, 64].
    """
    return np.concatenate([_chunk(films[start : start + CHUNK]) for start in range(0, len(films), CHUNK)])


def _chunk(films: Field) -> Field:
    slope_x, slope_y = np.zeros_like(films), np.zeros_like(films)
    slope_x[:, :, 1:-1] = films[:, :, 2:] - films[:, :, :-2]
    slope_y[:, 1:-1] = films[:, 2:] - films[:, :-2]
    strength = np.hypot(slope_x, slope_y)
    direction = np.arctan2(slope_y, slope_x) * np.float32(BINS / (2 * np.pi))
    lower = np.floor(direction)
    upper_share = direction - lower
    lower = lower.astype(np.int8) % BINS
    edges = np.empty((len(films), BINS, CELLS, CELLS), dtype=np.float32)
    for k in range(BINS):
        share = np.where(lower == k, 1 - upper_share, np.where((lower + 1) % BINS == k, upper_share, 0))
        edges[:, k] = softened(16 * pooled(strength * share, SIDE // CELLS))
    return edges / np.sqrt((edges**2).sum(1, keepdims=True) + 1.0)


def softened(cells: Field) -> Field:
    """Returns the cells [N, 16, 16] with a quarter of each neighbour in a row, then in a column."""
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def mirrored(edges: Field) -> Field:
    """Returns the edges of the mirror images."""
    return edges[:, (BINS // 2 - np.arange(BINS)) % BINS, :, ::-1]


def changed(edges: Field, turns: int, inverted: bool) -> Field:
    """Returns the edges of the films turned counter-clockwise by quarters and perhaps inverted."""
    bins = np.arange(BINS) + 2 * turns + (BINS // 2 if inverted else 0)
    return np.rot90(edges[:, bins % BINS], turns, (2, 3))


def rows(edges: Field) -> Field:
    return np.ascontiguousarray(edges.reshape(len(edges), -1))
