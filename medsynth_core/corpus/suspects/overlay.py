"""Laying films on each other: scales and shifts by Gauss-Newton."""

from __future__ import annotations

import numpy as np

from medsynth_core.corpus.suspects.looks import CHUNK, Field


def register(fixed: Field, moving: Field, placed: Field, step: int, rounds: int) -> Field:
    """Returns the scales and shifts [P, 4] that lay ``moving`` on ``fixed``, [P, n, n], by Gauss-Newton."""
    slope_y, slope_x = (np.asarray(each) for each in np.gradient(moving, 1 / moving.shape[1], axis=(1, 2)))
    x, y = _axes(moving.shape[1], step)
    target = fixed[:, ::step, ::step]
    most = np.array([0.2, 0.2, 0.12, 0.12], dtype=np.float32)
    for _ in range(rounds):
        laid, inside = warp(moving, placed, step)
        gy, gx = warp(slope_y, placed, step)[0], warp(slope_x, placed, step)[0]
        slopes = np.stack([gx * x, gy * y, gx, gy], -1).reshape(len(fixed), -1, 4)
        weighted = (slopes * inside.reshape(len(fixed), -1, 1)).transpose(0, 2, 1)
        normal = weighted @ slopes + 1e-3 * np.eye(4, dtype=np.float32)
        wanted = weighted @ (target - laid).reshape(len(fixed), -1, 1)
        placed = (placed + np.linalg.solve(normal, wanted)[..., 0]).clip(-most, most)
    return placed


def _axes(side: int, step: int) -> tuple[Field, Field]:
    """Returns x [1, m] and y [m, 1] of every ``step``-th pixel, from -0.5 to 0.5."""
    axis = ((np.arange(0, side, step) + 0.5) / side - 0.5).astype(np.float32)
    return axis[None, :], axis[:, None]


def warp(films: Field, placed: Field, step: int) -> tuple[Field, Field]:
    """Returns films [P, n, n] scaled and shifted, on every ``step``-th pixel, and 1 where they have pixels."""
    count, side = films.shape[:2]
    x, y = _axes(side, step)
    scale_x, scale_y, shift_x, shift_y = (column[:, None, None] for column in placed.T)
    u = ((x * (1 + scale_x) + shift_x) + 0.5) * side - 0.5
    v = ((y * (1 + scale_y) + shift_y) + 0.5) * side - 0.5
    inside = ((u >= 0) & (u <= side - 1)) & ((v >= 0) & (v <= side - 1))
    u, v = u.clip(0, side - 1.001), v.clip(0, side - 1.001)
    left, top = u.astype(np.int32), v.astype(np.int32)
    u, v = u - left, v - top
    flat, corner = films.ravel(), np.arange(count, dtype=np.int32)[:, None, None] * side**2 + top * side + left
    upper = flat[corner] * (1 - u) + flat[corner + 1] * u
    lower = flat[corner + side] * (1 - u) + flat[corner + side + 1] * u
    return upper * (1 - v) + lower * v, inside.astype(np.float32)


def warped(films: Field, placed: Field) -> Field:
    """Returns films [N, n, n] with their scales and shifts [N, 4] applied."""
    starts = range(0, len(films), CHUNK)
    return np.concatenate([warp(films[i : i + CHUNK], placed[i : i + CHUNK], 1)[0] for i in starts])
