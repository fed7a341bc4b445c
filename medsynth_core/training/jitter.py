"""Small random changes of training images, of which a film taken a moment later might have had as much.

Never mirrored: a heart on the right is a finding.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 8
"""Uniform draws an image."""
_TURN, _SCALE, _STRETCH, _SHIFT = math.radians(6.0), 0.08, 0.04, 0.06
"""Shifts are in halves of the side, as an affine grid has them."""
_GAMMA, _CONTRAST, _BRIGHTNESS = 0.2, 0.08, 0.04


def jittered(pixels_B1HW: Tensor, draws_BF: npt.NDArray[np.float64], strength: float) -> Tensor:
    """Returns pixels in [-1, 1], turned, scaled, stretched, shifted, and with another grey curve.

    Args:
        pixels_B1HW: float32 in [-1, 1].
        draws_BF: uniform draws in [0, 1), ``DRAWS`` an image.
        strength: 0 to 1; 0 changes nothing.
    """
    if strength == 0:
        return pixels_B1HW
    draws = torch.from_numpy(strength * (2.0 * draws_BF - 1.0)).to(pixels_B1HW)
    turn, scale, stretch, right, down, gamma, contrast, brightness = draws.unbind(1)
    turn, scale, stretch = _TURN * turn, 1 + _SCALE * scale, 1 + _STRETCH * stretch
    rows = (
        torch.stack([scale * stretch * turn.cos(), -scale * turn.sin(), _SHIFT * right], 1),
        torch.stack([scale * turn.sin(), scale / stretch * turn.cos(), _SHIFT * down], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels_B1HW.shape), align_corners=False)
    moved = F.grid_sample(pixels_B1HW, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    grey = ((moved + 1) / 2).clamp(1e-4, 1.0) ** torch.exp(_GAMMA * gamma)[:, None, None, None]
    bent = (grey - 0.5) * (1 + _CONTRAST * contrast)[:, None, None, None] + 0.5
    return (bent + _BRIGHTNESS * brightness[:, None, None, None]).clamp(0.0, 1.0) * 2 - 1
