"""Registration of images to thumbnails: the same picture in spite of brightness, contrast, crop and mirroring.

A reference is a thumbnail of 16 x 16 cells. An image may show a window of it (``scale``, the window's side, and its
corner ``x``, ``y``, all in units of the reference's side), mirrored or not; the image's means over the reference's
cells are exact for any window, by its integral image. Every reference is compared under a grid of windows, on the cells
that all of them show; the best are refined by Gauss-Newton (B. D. Lucas, T. Kanade, *An iterative image registration
technique*, IJCAI 1981), with gain and offset, on all cells that the window shows.

Shapes: N images, W windows (mirrored ones included), K candidates an image, M images and candidates in one list,
R references, C cells that all windows show, S = 16 cells a side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

SIDE = 16
"""Cells a side of a thumbnail."""
_SMALLEST, _LARGEST = 0.85, 1.02
"""Sides of the windows that are looked for."""
_GRID = ((1.0, 1), (0.97, 2), (0.94, 3), (0.91, 3), (0.88, 4))
"""Scale, and places a side, of the windows that every reference is compared under."""
_WINDOWS = np.array(
    [(scale, x, y) for scale, n in _GRID for x in np.linspace(0, 1 - scale, n) for y in np.linspace(0, 1 - scale, n)]
)
_CUT = int(np.ceil((1 - _SMALLEST) * SIDE))
_INNER = slice(_CUT, SIDE - _CUT)
_STAGES = ((128, SIDE // 2, 2), (24, SIDE, 3))
"""Candidates that are refined, cells a side, and steps: of many a few on coarse cells, of the nearest then on all."""
_LONGEST_STEP = 0.05
_REFERENCES_A_BLOCK = 8192
_IMAGES_A_BLOCK = 16
_LIBRARIES = ThreadpoolController()
"""A second thread of BLAS spins through what NumPy does alone: it saves an eighth of the time for twice the cores."""


class Registration:
    """Thumbnails to which images are registered."""

    def __init__(self, thumbnails_u8: npt.NDArray[np.uint8]) -> None:
        """Takes the references, uint8 [R, 256]."""
        cells = thumbnails_u8.reshape(-1, SIDE, SIDE).astype(np.float32)
        coarse = cells.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
        self._cells = {SIDE: cells, SIDE // 2: coarse}
        self._inner_RC = _standardised(cells[:, _INNER, _INNER].reshape(-1, (SIDE - 2 * _CUT) ** 2))

    def distances(self, images_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns the distance of square images uint8 [N, H, H] to their nearest references, float32 [N]: the root of
        the share of a reference's variance that the registered image doesn't explain, 0 (the same picture) to 1."""
        if not len(self._inner_RC):
            return np.ones(len(images_u8), dtype=np.float32)
        starts = range(0, len(images_u8), _IMAGES_A_BLOCK)
        with _LIBRARIES.limit(limits=1, user_api="blas"):
            parts = [self._nearest(images_u8[start : start + _IMAGES_A_BLOCK]) for start in starts]
        return np.concatenate([np.zeros(0, dtype=np.float32), *parts])

    def _nearest(self, images_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        n = len(images_u8)
        integrals = _integrals(images_u8)
        which_M = np.tile(np.arange(2 * n).reshape(2, n).T[:, :, None], (1, 1, len(_WINDOWS))).ravel()
        windows_M3 = np.tile(_WINDOWS, (2 * n, 1))
        seen, _ = _cell_means(integrals, which_M, windows_M3, SIDE)
        inner_MC = _standardised(seen[:, _INNER, _INNER].reshape(len(seen), -1))
        rows_NK, views_NK = self._candidates(inner_MC, n)
        picks = (np.arange(n)[:, None] * 2 * len(_WINDOWS) + views_NK).ravel()
        which_M, windows_M3, rows_M = which_M[picks], windows_M3[picks], rows_NK.ravel()
        least_N: Floats = np.ones(n)
        distance_NK: Floats = np.zeros(rows_NK.shape)
        for kept, side, steps in _STAGES:
            best_NK = _largest(-distance_NK, kept)
            picks = (np.arange(n)[:, None] * distance_NK.shape[1] + best_NK).ravel()
            which_M, windows_M3, rows_M = which_M[picks], windows_M3[picks], rows_M[picks]
            for _ in range(steps):
                distance_M, windows_M3 = _step(integrals, which_M, windows_M3, self._cells[side][rows_M])
                distance_NK = distance_M.reshape(n, -1)
                if side == SIDE:
                    least_N = np.minimum(least_N, distance_NK.min(1))
        return least_N.astype(np.float32)

    def _candidates(self, inner_MC: npt.NDArray[np.float32], n: int) -> tuple[Ints, Ints]:
        """Returns the references that correlate best with an image under their best window, and that window, both
        [N, K]."""
        value = np.zeros((n, 0), dtype=np.float32)
        rows = views = np.zeros((n, 0), dtype=np.int64)
        for start in range(0, len(self._inner_RC), _REFERENCES_A_BLOCK):
            block_RC = self._inner_RC[start : start + _REFERENCES_A_BLOCK]
            alike_RNW = (block_RC @ inner_MC.T).reshape(len(block_RC), n, -1)
            nearest_NR = alike_RNW.max(2).T
            top_NK = _largest(nearest_NR, _STAGES[0][0])
            under_NK = alike_RNW[top_NK, np.arange(n)[:, None]].argmax(2)
            value = np.concatenate([value, np.take_along_axis(nearest_NR, top_NK, 1)], 1)
            rows, views = np.concatenate([rows, top_NK + start], 1), np.concatenate([views, under_NK], 1)
        best_NK = _largest(value, _STAGES[0][0])
        rows, views = np.take_along_axis(rows, best_NK, 1), np.take_along_axis(views, best_NK, 1)
        return rows, views


def _step(
    integrals: npt.NDArray[np.int32], which_M: Ints, windows_M3: Floats, references: npt.NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Returns the distances under some windows [M], and windows that are a step of Gauss-Newton nearer [M, 3]."""
    side = references.shape[1]
    seen, shown = _cell_means(integrals, which_M, windows_M3, side)
    wanted = references.reshape(len(seen), -1)
    weight = shown.reshape(len(seen), -1)
    down, across = np.gradient(seen, 1 / side, axis=(1, 2))
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    corner_x, corner_y = windows_M3[:, 1:].astype(np.float32).T[..., None, None]
    widen = -(across * (centres - corner_x) + down * (centres[:, None] - corner_y))
    widen /= windows_M3[:, 0, None, None].astype(np.float32)
    rows_M5C = np.stack([seen, np.ones_like(seen), widen, -across, -down], 1).reshape(len(seen), 5, -1)
    weighted = rows_M5C * weight[:, None]
    squares = (weighted @ rows_M5C.transpose(0, 2, 1)).astype(np.float64)
    products = (weighted @ wanted[..., None])[..., 0].astype(np.float64)
    fit = _solve(squares[:, :2, :2], products[:, :2])
    left = wanted - rows_M5C[:, 0] * fit[:, :1] - fit[:, 1:]
    mean = (weight * wanted).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    share = (weight * left**2).sum(1) / ((weight * (wanted - mean) ** 2).sum(1) + 1e-6)
    distance = np.where(fit[:, 0] > 0, np.sqrt(share), 1.0)
    step = _solve(squares, products)
    move = step[:, 2:] / np.maximum(step[:, :1], 0.1)
    windows = windows_M3 + move.clip(-_LONGEST_STEP, _LONGEST_STEP)
    slack = _LARGEST - 1
    low, high = (_SMALLEST, -slack, -slack), (_LARGEST, 1 - _SMALLEST + slack, 1 - _SMALLEST + slack)
    return distance, windows.clip(low, high)


def _solve(squares: Floats, products: Floats) -> Floats:
    """Returns least squares by their normal equations, held up by a small ridge, [M, n]."""
    size = squares.shape[-1]
    ridge = 1e-9 * np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(size) + 1e-12 * np.eye(size)
    solution: Floats = np.linalg.solve(squares + ridge, products[..., None])[..., 0]
    return solution


def _integrals(images_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Returns sums over all pixels above and left of each corner, int32 [2 N, H + 1, H + 1] (H up to 2,900): first of
    the images, then of their mirror images."""
    n, side, _ = images_u8.shape
    sums = np.zeros((2 * n, side + 1, side + 1), dtype=np.int32)
    images_u8.cumsum(2, dtype=np.int32, out=sums[:n, 1:, 1:])
    for row in range(2, side + 1):  # faster than NumPy's own sum down the columns
        sums[:n, row] += sums[:n, row - 1]
    np.subtract(sums[:n, :, -1:], sums[:n, :, ::-1], out=sums[n:])
    return sums


def _cell_means(
    integrals: npt.NDArray[np.int32], which_M: Ints, windows_M3: Floats, cells: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the means of images ``which_M`` over the references' cells [M, cells, cells], and 1.0 where a window
    shows the whole cell, else 0.0."""
    side = integrals.shape[1] - 1
    edges = np.linspace(0.0, 1.0, cells + 1)
    at_x = (edges - windows_M3[:, 1:2]) / windows_M3[:, :1] * side
    at_y = (edges - windows_M3[:, 2:3]) / windows_M3[:, :1] * side
    slack = 0.05 * side / cells
    shown_x = (at_x[:, :-1] >= -slack) & (at_x[:, 1:] <= side + slack)
    shown_y = (at_y[:, :-1] >= -slack) & (at_y[:, 1:] <= side + slack)
    at_x, at_y = at_x.clip(0, side), at_y.clip(0, side)
    low_x, low_y = np.minimum(at_x.astype(np.int64), side - 1), np.minimum(at_y.astype(np.int64), side - 1)
    part_x, part_y = (at_x - low_x)[:, None, :], (at_y - low_y)[:, :, None]
    flat = integrals.reshape(-1)
    corner = (which_M[:, None, None] * (side + 1) + low_y[:, :, None]) * (side + 1) + low_x[:, None, :]
    upper = flat.take(corner) * (1 - part_x) + flat.take(corner + 1) * part_x
    lower = flat.take(corner + side + 1) * (1 - part_x) + flat.take(corner + side + 2) * part_x
    sums = np.diff(np.diff(upper * (1 - part_y) + lower * part_y, axis=1), axis=2)
    area = np.diff(at_y, axis=1)[:, :, None] * np.diff(at_x, axis=1)[:, None, :]
    means = (sums / np.maximum(area, 1e-6)).astype(np.float32)
    return means, (shown_y[:, :, None] & shown_x[:, None, :]).astype(np.float32)


def _largest(values: Floats, n: int) -> Ints:
    """Returns the places of the n largest of each row."""
    n = min(n, values.shape[1])
    return np.argpartition(-values, n - 1, 1)[:, :n]


def _standardised(cells: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns rows with mean 0 and norm 1."""
    centred = cells - cells.mean(1, keepdims=True)
    standard: npt.NDArray[np.float32] = centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6)
    return standard
