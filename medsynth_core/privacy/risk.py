"""What a release may give away of the training images: figures, their limits, and the refusal to publish above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsynth_core.errors import RiskError
from medsynth_core.judging.measured import MeasuredFigure
from medsynth_core.privacy.settings import RiskLimits

_MEANING = {
    "near_copies": "the models emit their training images",
    "nearer_to_training": "the images lie nearer to training images than to strangers'",
    "membership_auc": "from the images one can tell who was trained on",
    "membership_tpr": "from the images one can tell of some that they were trained on",
    "keypatch_leakage": "the images repeat the surroundings of the keypatches that they were given",
    "likelihood_auc": "who has the models can tell who was trained on",
    "likelihood_tpr": "who has the models can tell of some that they were trained on",
}
_REJECT = ", reject more (quality.duplicate.training_quantile)"


class RiskFigure(MeasuredFigure):
    """One figure, in the space of an attacker, in models (whose training images are counted) or in keypatches, whose
    windows are."""


def keep_limits(rows: Sequence[dict[str, Any]], limits: RiskLimits) -> list[dict[str, Any]]:
    """Returns the figures, each with the ``limit`` of its metric or None.

    Raises:
        RiskError: one is above its limit, and chance doesn't explain it.
    """
    of_metric: dict[str, float | None] = limits.model_dump()
    for row in rows:
        limit, name = of_metric.get(_base(row["metric"])), _base(row["metric"])
        if limit is not None and row["value"] is not None and row["value"] > limit and _is_beyond_chance(row):
            raise RiskError(
                f"not published: {row['metric']} ({row['space']}) is {row['value']:.3g} ({row['low']:.3g} to "
                f"{row['high']:.3g}), above privacy.limits.{name}={limit:g}; images that copy nobody get "
                f"{row['real']:.3g}. It means that {_MEANING[name]}. Train on more patients or for fewer steps"
                f"{'' if name.startswith('likelihood') else _REJECT}, or raise the limit if you accept that"
            )
    return [{**row, "limit": of_metric.get(_base(row["metric"]))} for row in rows]


def _is_beyond_chance(row: dict[str, Any]) -> bool:
    """Returns whether a figure lies above the range of images that copy nobody, or where that has none, the figure's
    interval above their value."""
    if row["real_high"] is not None:
        return bool(row["value"] > row["real_high"])
    return bool(row["low"] > row["real"])


def _base(metric: str) -> str:
    """Returns the metric without the name of an attacker."""
    return metric.removesuffix("_relative")
