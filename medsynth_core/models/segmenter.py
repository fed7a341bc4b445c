"""The organ segmenter: which cells of a frontal radiograph are the right lung, the left lung and the heart.

A small U-Net (O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015). Organs are large, so it looks at 64 x 64 pixels and
tells 32 x 32 cells, whatever the image's size.

Shapes: B images, G = 32 cells a side.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.corpus.records import ORGANS
from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.classifier import without_exposure
from medsynth_core.models.settings import SegmenterConfig

CELLS = 32
"""Cells a side that are told apart."""


class OrganSegmenter(nn.Module):
    """A U-Net of one block a level, its first level at half the resolution."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.entry = nn.Sequential(nn.Conv2d(1, channels[0], 3, 2, 1), _block(channels[0], channels[0]))
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _block(outer, inner), _block(inner, inner))
            for outer, inner in pairwise(channels)
        )
        self.up = nn.ModuleList(_block(inner + outer, outer) for outer, inner in reversed(list(pairwise(channels))))
        self.exit = nn.Conv2d(channels[0], 1 + len(ORGANS), 1)

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns logits [B, 4, G, G], of no organ first, of images in [-1, 1], exposure taken out."""
        if pixels_B1HW.shape[-1] != 2 * CELLS:
            pixels_B1HW = F.interpolate(pixels_B1HW, size=2 * CELLS, mode="bilinear", antialias=True)
        grids = [self.entry(without_exposure(pixels_B1HW))]
        for level in self.down:
            grids.append(level(grids[-1]))
        grid = grids.pop()
        for level in self.up:
            finer = F.interpolate(grid, scale_factor=2.0, mode="nearest")
            grid = level(torch.cat([finer, grids.pop()], 1))
        logits: Tensor = self.exit(grid)
        return logits

    def save(self, folder: Path) -> None:
        """Writes weights and config into ``folder``."""
        save_weights(folder, self.state_dict(), {"kind": "segmenter", "segmenter": self.config.model_dump(mode="json")})

    @classmethod
    def load(cls, folder: Path) -> OrganSegmenter:
        """Returns the saved segmenter in evaluation mode.

        Raises:
            InputError: the folder holds none, or its weights don't fit its config.
        """
        state, saved = load_weights(folder, "segmenter")
        model = cls(SegmenterConfig.model_validate(saved["segmenter"]))
        restore(model, state, folder)
        return model.eval().to(memory_format=torch.channels_last)  # two thirds of the time on a CPU


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, 1, 1), nn.GroupNorm(8, outer), nn.SiLU())
