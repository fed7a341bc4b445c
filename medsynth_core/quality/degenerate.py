"""The degenerate filter: blank and clipped images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsynth_core.config.tree import QualityConfig
from medsynth_core.quality.filters import Images, Judgement


class DegenerateFilter:
    """Rejects images without contrast and images that are mostly pure black or white."""

    name = "degenerate"

    def __init__(self, config: QualityConfig) -> None:
        self._min_contrast = config.min_contrast
        self._max_clipped = config.max_clipped_fraction

    def judge(self, images_u8: Images, prompts: Sequence[str]) -> list[Judgement]:
        """Scores: standard deviation in grey levels, share of pixels at 0 or 255."""
        contrast_N = images_u8.astype(np.float32).std(axis=(1, 2))
        clipped_N = ((images_u8 == 0) | (images_u8 == 255)).mean(axis=(1, 2))
        return [
            Judgement(
                {"score_contrast": float(contrast), "score_clipped": float(clipped)}, self._reason(contrast, clipped)
            )
            for contrast, clipped in zip(contrast_N, clipped_N, strict=True)
        ]

    def _reason(self, contrast: float, clipped: float) -> str | None:
        if contrast < self._min_contrast:
            return "degenerate:blank"
        return "degenerate:clipped" if clipped > self._max_clipped else None
