"""What of an image no label speaks of: how its power is spread over frequencies, its edges and its grey levels.

Power is that of the Hann-windowed image without its mean, a pixel, in squared grey levels. The variance of rounding to
8 bits is added to it, and one grey level to edges, so that nothing below what a file can hold makes a difference.

Shapes: N images, H x H pixels, B bands, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.filters.thumbnails import Images

Floats = npt.NDArray[np.floating[Any]]
_ROUNDING = 1 / 12
_BANDS, _GEOMETRIC_BANDS = 24, 10
_LOWEST = 2.0
"""Cycles an image: slower is pose and size, which vary."""
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_GREY_BINS = 16
_BLOCK = 256


def spectrum_features(images_u8: Images) -> Floats:
    """Returns log10 power of equal bands up to Nyquist, log10 edges and shares of 16 grey levels, float64 [N, F]."""
    side = images_u8.shape[1]
    edges = np.linspace(1.0, side / 2, min(_BANDS, side // 2) + 1)
    grey = (images_u8 // (256 // _GREY_BINS)).reshape(len(images_u8), -1)
    shares = np.stack([(grey == level).mean(1) for level in range(_GREY_BINS)], 1)
    return np.concatenate([band_powers(images_u8, edges), _edges(images_u8), shares], 1)


def fidelity_coordinates(images_u8: Images) -> Floats:
    """Returns the power of geometric bands from 2 cycles an image to Nyquist, and edges, in decibels, [N, F]."""
    bands = np.geomspace(_LOWEST, images_u8.shape[1] / 2, _GEOMETRIC_BANDS + 1)
    return np.concatenate([10 * band_powers(images_u8, bands), 20 * _edges(images_u8)], 1)


def radial_profile(images_u8: Images) -> tuple[Floats, Floats]:
    """Returns frequencies in cycles an image, 1 to Nyquist, and the mean log10 power at each; both [H / 2]."""
    frequencies = np.arange(1, images_u8.shape[1] // 2 + 1)
    profile: Floats = band_powers(images_u8, np.append(frequencies - 0.5, frequencies[-1] + 0.5)).mean(0)
    return frequencies.astype(np.float64), profile


def band_powers(images_u8: Images, edges: Floats) -> Floats:
    """Returns log10 of the mean power between each two edges, in cycles an image; bands without a frequency are left
    out; [N, B]."""
    side = images_u8.shape[1]
    radius = np.hypot(np.fft.fftfreq(side, 1 / side)[:, None], np.fft.rfftfreq(side, 1 / side)[None])
    band = np.digitize(radius, edges) - 1
    # Nyquist itself belongs to the last band
    band[np.isclose(radius, edges[-1])] = len(edges) - 2
    # each column of a real transform but the first and the last stands for two
    twice = np.full(radius.shape, 2.0)
    twice[:, 0] = 1.0
    if side % 2 == 0:
        twice[:, -1] = 1.0
    inside = (band >= 0) & (band < len(edges) - 1)
    members = [np.flatnonzero(inside & (band == each)) for each in range(len(edges) - 1)]
    parts = [np.empty((0, sum(map(bool, map(len, members)))))]
    for power in _powers(images_u8):
        flat = power.reshape(len(power), -1)
        parts.append(np.stack([_weighted(flat, twice.ravel(), each) for each in members if len(each)], 1))
    return np.log10(np.concatenate(parts) + _ROUNDING)


def _weighted(flat: Floats, weights: Floats, at: npt.NDArray[np.int64]) -> Floats:
    mean: Floats = flat[:, at] @ weights[at] / weights[at].sum()
    return mean


def _powers(images_u8: Images) -> Iterator[Floats]:
    """Yields blocks of power a pixel, [n, H, H / 2 + 1]."""
    window = np.hanning(images_u8.shape[1] + 2)[1:-1]
    window_HH = np.outer(window, window)
    for start in range(0, len(images_u8), _BLOCK):
        images = images_u8[start : start + _BLOCK].astype(np.float64)
        images -= (images * window_HH).sum((1, 2), keepdims=True) / window_HH.sum()
        yield np.abs(np.fft.rfft2(images * window_HH)) ** 2 / (window_HH**2).sum()


def _edges(images_u8: Images) -> Floats:
    """Returns log10 of quantiles of the Laplacian's size in grey levels, plus one, [N, Q]."""
    parts = [np.empty((0, len(_QUANTILES)))]
    for start in range(0, len(images_u8), _BLOCK):
        x = images_u8[start : start + _BLOCK].astype(np.int32)
        laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4 * x[:, 1:-1, 1:-1]
        sizes = np.abs(laplacian).reshape(len(x), -1)
        parts.append(np.quantile(sizes, _QUANTILES, axis=1).T)
    return np.log10(np.concatenate(parts) + 1)
