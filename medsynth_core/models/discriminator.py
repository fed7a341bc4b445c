"""The network that a VQ-GAN is trained against.

Shapes: B images, H x W pixels, p x p patches.
"""

from __future__ import annotations

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches as real or reconstructed (pix2pix); logits float32 [B, 1, p, p]."""

    def __init__(self, channels: int = 32, layers: int = 2) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(layers):
            inner, outer = channels * 2**index, channels * 2 ** (index + 1)
            stride = 2 if index < layers - 1 else 1
            blocks += [
                nn.Conv2d(inner, outer, 4, stride, 1, bias=False),
                nn.GroupNorm(8, outer),
                nn.LeakyReLU(0.2),
            ]
        self.net = nn.Sequential(*blocks, nn.Conv2d(channels * 2**layers, 1, 4, 1, 1))

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        logits: Tensor = self.net(pixels_B1HW)
        return logits
