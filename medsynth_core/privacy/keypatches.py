"""Keypatch leakage: does an image repeat what surrounds its keypatches in the image that they were cut from?

A keypatch is one cell of a training image; at least a few patients show its code there, so the cell itself tells of
nobody. The window of cells around it does. Distances are the share of the deviation of a source's window that the
image's doesn't explain by gain and offset: 0 (the same picture) to 1. Near is what real images of the same findings,
held against the same keypatches, hardly ever come to.

Shapes: P pairs of an image and one of its keypatches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import resampled_interval
from medsynth_core.filters.thumbnails import Images
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
REACH = 1
"""Cells on each side of a keypatch's own that its window takes in."""


@dataclass(frozen=True)
class Patched:
    """Images with the codebook entries of each."""

    images_u8: Images
    entries: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.entries)


def leakage_figure(
    synthetic: Patched,
    held_out: Patched,
    reference: Patched,
    codebook: VisualCodebook,
    sources: dict[int, npt.NDArray[np.uint8]],
    quantile: float,
    seed: int,
) -> RiskFigure:
    """Returns the share of windows that come nearer to their source than the ``quantile`` nearest of ``reference``.

    Args:
        sources: training images, uint8 [H, W], by corpus row.
    """
    ours, theirs, usual = (window_distances(side, codebook, sources) for side in (synthetic, held_out, reference))
    flat = [np.concatenate([np.zeros(0), *of_images]) for of_images in (ours, theirs, usual)]
    about = ("keypatch_leakage", "keypatches", len(flat[0]), len(flat[1]))
    if min(map(len, flat)) == 0:
        return RiskFigure(*about, reason="no keypatches to compare")
    bound = float(np.quantile(flat[2], quantile))
    of_image = np.array([[(windows <= bound).sum(), len(windows)] for windows in ours if len(windows)], dtype=float).T
    low, high = resampled_interval(_share, tuple(of_image), stream(seed, "privacy.keypatch_leakage"), paired=True)
    return RiskFigure(*about, _share(*of_image), low, high, float((flat[1] <= bound).mean()))


def _share(hits_N: Floats, windows_N: Floats) -> float:
    """Returns the share of windows that are near; windows of one image overlap, so images are resampled."""
    return float(hits_N.sum() / windows_N.sum())


def window_distances(
    patched: Patched, codebook: VisualCodebook, sources: dict[int, npt.NDArray[np.uint8]]
) -> list[Floats]:
    """Returns the distances of each image's windows to their sources'."""
    side = round(len(codebook.usual_CD) ** 0.5)
    image_P = np.repeat(np.arange(len(patched)), [len(entries) for entries in patched.entries])
    entry_P = np.array([entry for entries in patched.entries for entry in entries], dtype=np.int64)
    cell_P, row_P = codebook.cells_E.numpy()[entry_P], codebook.rows_E.numpy()[entry_P]
    distance_P = np.ones(len(entry_P))
    for cell in np.unique(cell_P):
        pairs = np.flatnonzero(cell_P == cell)
        source_u8 = np.stack([sources[row] for row in row_P[pairs].tolist()])
        seen, wanted = (_window(images, int(cell), side) for images in (patched.images_u8[image_P[pairs]], source_u8))
        distance_P[pairs] = _unexplained(seen, wanted)
    return np.split(distance_P, np.cumsum([len(entries) for entries in patched.entries])[:-1])


def _window(images_u8: Images, cell: int, side: int) -> Floats:
    """Returns the pixels around a cell, those beyond the rim left out, float64 [n, pixels]."""
    step = images_u8.shape[1] // side
    row, column = divmod(cell, side)
    rows, columns = (slice(max(0, at - REACH) * step, (at + REACH + 1) * step) for at in (row, column))
    return images_u8[:, rows, columns].reshape(len(images_u8), -1).astype(np.float64)


def _unexplained(seen: Floats, wanted: Floats) -> Floats:
    seen, wanted = (pixels - pixels.mean(1, keepdims=True) for pixels in (seen, wanted))
    norms = np.sqrt((seen**2).sum(1) * (wanted**2).sum(1))
    alike = ((seen * wanted).sum(1) / np.maximum(norms, 1e-9)).clip(0, 1)
    unexplained: Floats = np.sqrt(1 - alike**2)
    return unexplained
