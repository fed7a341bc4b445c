"""An image tokenizer in a page: the mean grey of every block, rounded to the nearest of a few."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medsynth_core.models.artifact import load_weights, save_weights


class BlockMeans(nn.Module):
    """Codes are numbers of greys, float32 [K] in [-1, 1]; a block has ``downsampling`` pixels a side."""

    def __init__(self, greys_K: Tensor, downsampling: int) -> None:
        super().__init__()
        self.downsampling = downsampling
        self.register_buffer("greys_K", greys_K)

    @property
    def codes(self) -> int:
        return len(self.greys_K)

    @property
    def levels(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return self.greys_K.device

    def encode(self, pixels_B1HW: Tensor) -> Tensor:
        means_Bhw = nn.functional.avg_pool2d(pixels_B1HW, self.downsampling)[:, 0]
        return (means_Bhw[..., None] - self.greys_K).abs().argmin(-1).flatten(1)

    def decode(self, codes_BT: Tensor) -> Tensor:
        n, side = self.downsampling, round(codes_BT.shape[1] ** 0.5)
        return self.greys_K[codes_BT.view(-1, side, side)][:, None].repeat_interleave(n, 2).repeat_interleave(n, 3)

    def save(self, folder: Path) -> None:
        save_weights(folder, self.state_dict(), {"kind": "toy", "downsampling": self.downsampling})


def load(folder: Path) -> BlockMeans:
    state, about = load_weights(folder, "toy")
    return BlockMeans(state["greys_K"], about["downsampling"])
