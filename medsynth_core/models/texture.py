"""A texture encoder that nobody trained: its weights are drawn once from a named seed, so every machine has the same.

A network trained on labels is blind to what no label asks for; this one is made to see grain, edges and their spread.
It is a scattering transform (J. Bruna, S. Mallat, *Invariant scattering convolution networks*, PAMI 2013) with random
filters (A. Saxe et al., *On random weights and unsupervised feature learning*, ICML 2011): at each scale moduli of
zero-mean filters, and moduli of filters on those, each with its mean and deviation over the image.

Shapes: N images, H x W pixels, C filters a layer, F features.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.random import stream

SCALES = 4
"""Each has half the side of the one before; one of fewer than 8 pixels is left out."""
_CHANNELS, _SIZES = 8, (5, 3)
_SEED, _NAME = 20240, "models.texture"
_LEAST_SIDE = 8
_GREY_LEVEL = 1.0
"""Added to responses of 0..255 before the logarithm: what is below rounding to 8 bits is nothing that can be seen."""


class TextureEncoder(nn.Module):
    """Images uint8 [N, H, W] to float32 [N, F] in decibels, F = 32 a scale, 128 from sides of 64 pixels on."""

    def __init__(self) -> None:
        super().__init__()
        for layer, (size, n_in) in enumerate(zip(_SIZES, (1, _CHANNELS), strict=True)):
            weights = stream(_SEED, _NAME, layer).standard_normal((_CHANNELS, n_in, size, size))
            weights -= weights.mean(axis=(2, 3), keepdims=True)
            weights /= np.sqrt((weights**2).sum(axis=(1, 2, 3), keepdims=True))
            self.register_buffer(f"weights_{layer}", torch.from_numpy(weights.astype(np.float32)), persistent=False)

    def forward(self, images_NHW: Tensor) -> Tensor:
        grey_N1HW = images_NHW[:, None].float()
        parts: list[Tensor] = []
        for scale in range(SCALES):
            if scale:
                grey_N1HW = F.avg_pool2d(grey_N1HW, 2)
            if min(grey_N1HW.shape[2:]) < _LEAST_SIDE:
                break
            first_NCHW = F.conv2d(grey_N1HW, self.weights_0).abs()
            second_NCHW = F.conv2d(first_NCHW, self.weights_1).abs()
            parts += [part for layer in (first_NCHW, second_NCHW) for part in (layer.mean((2, 3)), layer.std((2, 3)))]
        return 20 * torch.log10(torch.cat(parts, 1) + _GREY_LEVEL)
