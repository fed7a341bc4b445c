"""The noise filter: grain that the tokeniser wouldn't leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import NO_LIMIT, Column, Context, Filter, Prompt, Reason, Scores, percent, quantile_of
from medsynth_core.filters.thumbnails import Images


def noise(images_u8: Images) -> npt.NDArray[np.float32]:
    """Returns the standard deviation of the noise in grey levels, float32 [N], by the difference of two Laplacians
    (J. Immerkær, *Fast noise variance estimation*, CVIU 64(2), 1996)."""
    grey = images_u8.astype(np.float32)
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    estimate: npt.NDArray[np.float32] = np.abs(both).mean((1, 2)) * np.float32(np.sqrt(np.pi / 2) / 6)
    return estimate


_SCORE, _HIGH = "score_noise", "noise:high"


class NoiseSettings(Section):
    """Noisy images."""

    quantile: Fraction = 0.005
    """Of the standard deviation of the grain."""


class Noise(Filter[NoiseSettings, None]):
    """Rejects images with more noise than almost all held-out images as the tokenizer renders them."""

    name = "noise"
    version = 1
    cost = 0.06
    settings = NoiseSettings
    columns = (Column(_SCORE, "standard deviation of the noise in grey levels", "noise in grey levels", "noise"),)
    reasons = (Reason(_HIGH, "noisy", _SCORE),)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: None) -> Scores:
        """Score: ``noise``."""
        return {_SCORE: noise(images_u8)}

    def bounds(self, scores: Scores, settings: NoiseSettings, margin: float) -> dict[str, float]:
        return {"noise": quantile_of(_SCORE, scores[_SCORE], 1 - settings.quantile, NO_LIMIT, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: NoiseSettings) -> list[str | None]:
        return [_HIGH if score > bounds["noise"] else None for score in scores[_SCORE]]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return f"Noisy images were rejected: noisier than all but {percent(settings['quantile'])} of held-out ones."


FILTER = Noise()
