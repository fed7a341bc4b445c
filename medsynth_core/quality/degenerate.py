"""The degenerate filter: blank and saturated images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.filters import Images, Judgement, Prompt


def clipped(images_u8: Images) -> npt.NDArray[np.float64]:
    """Returns the share of pixels at 0 or 255, float64 [N]."""
    share: npt.NDArray[np.float64] = ((images_u8 == 0) | (images_u8 == 255)).mean(axis=(1, 2))
    return share


class DegenerateFilter:
    """Rejects images without contrast, and images with more pure black and white than almost all held-out ones have."""

    name = "degenerate"

    def __init__(self, min_contrast: float, max_clipped: float) -> None:
        self._min_contrast = min_contrast
        self._max_clipped = max_clipped

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Scores: standard deviation in grey levels, share of pixels at 0 or 255."""
        contrast_N = images_u8.astype(np.float32).std(axis=(1, 2))
        return [
            Judgement({"score_contrast": float(contrast), "score_clipped": float(share)}, self._reason(contrast, share))
            for contrast, share in zip(contrast_N, clipped(images_u8), strict=True)
        ]

    def _reason(self, contrast: float, share: float) -> str | None:
        if contrast < self._min_contrast:
            return "degenerate:blank"
        return "degenerate:saturated" if share > self._max_clipped else None
