"""The naturalness filter: NIQE against the corpus' own statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import (
    NO_LIMIT,
    Arrays,
    Column,
    Context,
    Filter,
    Prompt,
    Reason,
    Reference,
    Scores,
    Training,
    percent,
    quantile_of,
)
from medsynth_core.filters.thumbnails import Images
from medsynth_core.models.naturalness import NaturalnessModel

_NATURAL = 512
"""Training images, evenly spread, that the model is fitted on; all of them are held in memory."""
_SCORE, _UNNATURAL = "score_niqe", "niqe:unnatural"


class NaturalnessSettings(Section):
    """Unnatural texture."""

    quantile: Fraction = 0.005
    """Of NIQE against the corpus' own statistics."""


class Naturalness(Filter[NaturalnessSettings, NaturalnessModel]):
    """Rejects images whose local statistics are farther from the corpus' than almost all held-out images'. Off by
    default: it costs most and catches nothing that the others miss."""

    name = "niqe"
    version = 1
    cost = 0.5
    on = False
    settings = NaturalnessSettings
    columns = (Column(_SCORE, "NIQE against the corpus' own statistics, the lower the better", "NIQE", "niqe"),)
    reasons = (Reason(_UNNATURAL, "unnatural texture", _SCORE),)

    def fit(self, reference: Reference) -> Arrays:
        n = len(reference.images_u8)
        spread = np.linspace(0, n - 1, min(_NATURAL, n)).astype(int)
        model = NaturalnessModel.fit(reference.images_u8[spread])
        return {"mean": model.mean_F, "covariance": model.covariance_FF}

    def model(self, fitted: Arrays, training: Training) -> NaturalnessModel:
        return NaturalnessModel(fitted["mean"], fitted["covariance"])

    def measure(
        self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: NaturalnessModel
    ) -> Scores:
        """Score: NIQE."""
        return {_SCORE: model.scores(images_u8)}

    def bounds(self, scores: Scores, settings: NaturalnessSettings, margin: float) -> dict[str, float]:
        return {"niqe": quantile_of(_SCORE, scores[_SCORE], 1 - settings.quantile, NO_LIMIT, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: NaturalnessSettings) -> list[str | None]:
        return [None if score <= bounds["niqe"] else _UNNATURAL for score in scores[_SCORE]]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            "Images with unnatural texture were rejected: a NIQE above that of all but "
            f"{percent(settings['quantile'])} of real held-out images."
        )


FILTER = Naturalness()
