"""The finding classifier: which findings an image shows, on which side, from labels mined out of reports.

One guides the VQ-GAN: its features carry the clinical-information-preserving term (LLM-CXR, section 3.1). Another, the
labelling judge, learns from patients of its own (``models.judge``).

Shapes: B images, L labels, C channels of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.settings import ClassifierConfig

_GRID = 8
"""Cells a side on which the head still sees where a finding is."""


class FindingClassifier(nn.Module):
    """Strided convolutions, a residual block a stage, and a head that keeps the place.

    Attributes:
        labels: one (term, side) a logit; a bilateral finding, and one without a side, has both.
    """

    def __init__(self, config: ClassifierConfig, labels: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.config = config
        self.labels = [(term, side) for term, side in labels]
        self.stages = trunk(config.channels)
        self.head = placed_head(config.channels[-1], config.dropout, len(self.labels))

    def features(self, pixels_B1HW: Tensor) -> list[Tensor]:
        """Returns the output of every stage, [B, C, H / 2**stage, W / 2**stage], exposure taken out.

        Args:
            pixels_B1HW: images in [-1, 1].
        """
        grid = without_exposure(pixels_B1HW)
        outputs = []
        for stage in self.stages:
            grid = stage(grid)
            outputs.append(grid)
        return outputs

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns logits [B, L] of images in [-1, 1]."""
        logits: Tensor = self.head(self.features(pixels_B1HW)[-1])
        return logits

    def save(self, folder: Path) -> None:
        """Writes weights, config and label names into ``folder``."""
        about = {"kind": "classifier", "classifier": self.config.model_dump(mode="json"), "labels": self.labels}
        save_weights(folder, self.state_dict(), about)

    @classmethod
    def load(cls, folder: Path) -> FindingClassifier:
        """Returns the saved classifier in evaluation mode.

        Raises:
            InputError: the folder holds none, or its weights don't fit its config.
        """
        state, saved = load_weights(folder, "classifier")
        model = cls(ClassifierConfig.model_validate(saved["classifier"]), [tuple(pair) for pair in saved["labels"]])
        restore(model, state, folder)
        return model.eval()


def trunk(channels: Sequence[int]) -> nn.ModuleList:
    """Returns stages that halve the resolution each, from one channel [B, 1, H, W] to the last of ``channels``."""
    return nn.ModuleList(_Stage(a, b) for a, b in pairwise((1, *channels)))


def placed_head(channels: int, dropout: float, outputs: int) -> nn.Sequential:
    """Returns layers from a grid [B, C, H, W] to [B, outputs] that see where something is."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(_GRID),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * _GRID**2, 128),
        nn.SiLU(),
        nn.Linear(128, outputs),
    )


class _Stage(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(inner, outer, 3, 2, 1), nn.GroupNorm(8, outer), nn.SiLU())
        self.refine = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 1), nn.GroupNorm(8, outer), nn.SiLU())

    def forward(self, grid: Tensor) -> Tensor:
        grid = self.down(grid)
        return grid + self.refine(grid)  # type: ignore[no-any-return]


def without_exposure(pixels_B1HW: Tensor) -> Tensor:
    """Returns images with mean 0 and deviation 1."""
    mean = pixels_B1HW.mean((1, 2, 3), keepdim=True)
    spread = pixels_B1HW.std((1, 2, 3), keepdim=True)
    return (pixels_B1HW - mean) / (spread + 0.01)


def worn(pixels_B1HW: Tensor, softness_B111: Tensor, noise_B1HW: Tensor) -> Tensor:
    """Returns images blurred by a share (0 to 1) and with noise added, so that shapes are learnt, not texture."""
    soft = F.avg_pool2d(F.pad(pixels_B1HW, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pixels_B1HW * (1 - softness_B111) + soft * softness_B111 + noise_B1HW
