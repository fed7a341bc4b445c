"""The degenerate filter: blank and saturated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import Column, Context, Filter, Prompt, Reason, Scores, percent, quantile_of
from medsynth_core.filters.thumbnails import Images

_CONTRAST, _CLIPPED = "score_contrast", "score_clipped"
_BLANK, _SATURATED = "degenerate:blank", "degenerate:saturated"


def clipped(images_u8: Images) -> npt.NDArray[np.float64]:
    """Returns the share of pixels at 0 or 255, float64 [N]."""
    share: npt.NDArray[np.float64] = ((images_u8 == 0) | (images_u8 == 255)).mean(axis=(1, 2))
    return share


class DegenerateSettings(Section):
    """Blank and saturated images."""

    min_contrast: Annotated[float, Field(ge=0.0, le=127.5)] = 8.0
    """Standard deviation in grey levels (0..255) below which an image is blank."""
    quantile: Fraction = 0.005
    """Of the share of pixels that are exactly 0 or 255."""


class Degenerate(Filter[DegenerateSettings, None]):
    """Rejects images without contrast, and images with more pure black and white than almost all held-out ones have."""

    name = "degenerate"
    version = 1
    cost = 0.02
    settings = DegenerateSettings
    columns = (
        Column(
            _CONTRAST,
            "standard deviation in grey levels",
            "contrast in grey levels",
            digits=1,
            setting="min_contrast",
        ),
        Column(_CLIPPED, "share of pixels at 0 or 255", "share of black or white pixels", "clipped", digits=4),
    )
    reasons = (
        Reason(_BLANK, "almost one grey", _CONTRAST),
        Reason(_SATURATED, "too much black or white", _CLIPPED),
    )

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: None) -> Scores:
        """Scores: standard deviation in grey levels, share of pixels at 0 or 255."""
        return {_CONTRAST: images_u8.astype(np.float32).std(axis=(1, 2)), _CLIPPED: clipped(images_u8)}

    def bounds(self, scores: Scores, settings: DegenerateSettings, margin: float) -> dict[str, float]:
        return {"clipped": quantile_of(_CLIPPED, scores[_CLIPPED], 1 - settings.quantile, 1.0, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: DegenerateSettings) -> list[str | None]:
        return [
            _BLANK if contrast < settings.min_contrast else _SATURATED if share > bounds["clipped"] else None
            for contrast, share in zip(scores[_CONTRAST], scores[_CLIPPED], strict=True)
        ]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            f"Degenerate images were rejected: a standard deviation under {settings['min_contrast']:g} grey levels, or "
            f"more than {bounds['clipped']:.2%} of the pixels black or white, which is more than all but "
            f"{percent(settings['quantile'])} of real held-out images have."
        )


FILTER = Degenerate()
