"""NIQE: how far an image's local statistics are from those of a corpus, without a reference image.

A. Mittal, R. Soundararajan, A. C. Bovik, *Making a completely blind image quality analyzer*, IEEE SPL 20(3), 2013.
The paper's own model is of natural photographs; ours is fitted on the corpus, so that it means the same for
radiographs, and its patches are a quarter of the image's side instead of 96 pixels.

Shapes: N images, H x W pixels, P patches, F = 36 features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, zoom
from scipy.special import gamma

from medsynth_core.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
N_FEATURES = 36

_SIGMA, _RADIUS = 7 / 6, 3
_BLOCK = 64
"""Images whose fields are in memory together."""
_SHARP_SHARE = 0.75
"""Patches less sharp than this share of their image's sharpest don't enter the model (section II-B)."""
_SHAPES = np.arange(0.2, 10.0, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class NaturalnessModel:
    """A Gaussian of patch features.

    Attributes:
        mean_F, covariance_FF: float64, of the sharp patches of the images it was fitted on.
    """

    mean_F: Floats
    covariance_FF: Floats

    @classmethod
    def fit(cls, images_u8: npt.NDArray[np.uint8]) -> NaturalnessModel:
        """Returns the model of images uint8 [N, H, W].

        Raises:
            InputError: there are fewer sharp patches than features.
        """
        blocks = [_features(images_u8[start : start + _BLOCK]) for start in range(0, len(images_u8), _BLOCK)]
        features_NPF, sharpness_NP = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        sharp_NP = sharpness_NP >= _SHARP_SHARE * sharpness_NP.max(1, keepdims=True)
        chosen = features_NPF[sharp_NP]
        if len(chosen) <= features_NPF.shape[-1]:
            raise InputError(f"{len(images_u8)} images have {len(chosen)} sharp patches; NIQE needs more images")
        return cls(chosen.mean(0), np.cov(chosen, rowvar=False))

    def scores(self, images_u8: npt.NDArray[np.uint8]) -> Floats:
        """Returns the NIQE of images uint8 [N, H, W], float64 [N], 0 or more, the lower the better (eq. 10)."""
        features_NPF, _ = _features(images_u8)
        away_NF = features_NPF.mean(1) - self.mean_F
        spread_NFF = np.stack([np.cov(patches, rowvar=False) for patches in features_NPF])
        inverse_NFF = np.linalg.pinv((spread_NFF + self.covariance_FF) / 2)
        scores: Floats = np.sqrt(np.einsum("nf,nfg,ng->n", away_NF, inverse_NFF, away_NF).clip(min=0))
        return scores


def _features(images_u8: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Returns features [N, P, F] and sharpness [N, P] of 4 x 4 patches, at full and at half size."""
    images = images_u8.astype(np.float64)
    parts = []
    for scale in (1, 2):
        mean = gaussian_filter(images, (0, _SIGMA, _SIGMA), radius=(0, _RADIUS, _RADIUS))
        square = gaussian_filter(images**2, (0, _SIGMA, _SIGMA), radius=(0, _RADIUS, _RADIUS))
        deviation = np.sqrt((square - mean**2).clip(min=0))
        patches = _patches((images - mean) / (deviation + 1))
        if scale == 1:
            sharpness = _patches(deviation).mean((-2, -1))
        shape, left, right, _ = _asymmetric(patches)
        columns = [shape, (left + right) / 2]
        for shift in _SHIFTS:
            shape, left, right, centre = _asymmetric(patches * np.roll(patches, shift, (-2, -1)))
            columns += [shape, centre, left, right]
        parts.append(np.stack(columns, -1))
        images = zoom(images, (1, 0.5, 0.5), order=1, grid_mode=True, mode="nearest")
    return np.concatenate(parts, -1), sharpness


def _patches(field: Floats) -> Floats:
    """Returns [N, 16, h, w] of [N, H, W]."""
    n, height, width = field.shape
    h, w = height // 4, width // 4
    tiles = field[:, : 4 * h, : 4 * w].reshape(n, 4, h, 4, w).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(n, 16, h, w)


def _asymmetric(patches: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns shape, left and right scale and mean of the asymmetric generalised Gaussian of each patch, by moments
    (eq. 5 to 8)."""
    square = patches**2
    negative, positive = patches < 0, patches > 0
    left = np.sqrt((square * negative).sum((-2, -1)) / negative.sum((-2, -1)).clip(min=1) + 1e-12)
    right = np.sqrt((square * positive).sum((-2, -1)) / positive.sum((-2, -1)).clip(min=1) + 1e-12)
    ratio = left / right
    moment = np.abs(patches).mean((-2, -1)) ** 2 / (square.mean((-2, -1)) + 1e-12)
    target = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    # _RATIOS rises with the shape
    at = np.searchsorted(_RATIOS, target).clip(1, len(_SHAPES) - 1)
    nearer = np.where(target - _RATIOS[at - 1] < _RATIOS[at] - target, at - 1, at)
    shape = _SHAPES[nearer]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    left, right = left * scale, right * scale
    centre = (right - left) * gamma(2 / shape) / gamma(1 / shape)
    return shape, left, right, centre
