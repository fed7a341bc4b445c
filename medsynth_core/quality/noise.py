"""The noise filter: grain that the tokeniser wouldn't leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.filters import Images, Judgement, Prompt


def noise(images_u8: Images) -> npt.NDArray[np.float32]:
    """Returns the standard deviation of the noise in grey levels, float32 [N], by the difference of two Laplacians
    (J. Immerkær, *Fast noise variance estimation*, CVIU 64(2), 1996)."""
    grey = images_u8.astype(np.float32)
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    estimate: npt.NDArray[np.float32] = np.abs(both).mean((1, 2)) * np.float32(np.sqrt(np.pi / 2) / 6)
    return estimate


class NoiseFilter:
    """Rejects images with more noise than almost all held-out images as the VQ-GAN renders them."""

    name = "noise"

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: ``noise``."""
        return [
            Judgement({"score_noise": float(s)}, "noise:high" if s > self._bound else None) for s in noise(images_u8)
        ]
