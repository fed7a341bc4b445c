"""Pixels on their way to a network and back: bytes travel to and from the device, which does the arithmetic.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_inputs(images_u8: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Returns what networks take, float32 [N, 1, H, W] in [-1, 1] on a device, of images [N, H, W].

    Raises:
        TypeError: the input isn't uint8.
    """
    if images_u8.dtype != np.uint8:
        raise TypeError(f"expected uint8 in 0..255, found {images_u8.dtype}")
    return torch.from_numpy(images_u8)[:, None].to(device).float() / 127.5 - 1.0


def to_images(pixels_N1HW: Tensor) -> npt.NDArray[np.uint8]:
    """Returns images uint8 [N, H, W] of what a network gave; pixels beyond [-1, 1] are clamped."""
    grey = (pixels_N1HW[:, 0].float().clamp(-1.0, 1.0) + 1.0) * 127.5
    images: npt.NDArray[np.uint8] = grey.round().to(torch.uint8).cpu().numpy()
    return images
