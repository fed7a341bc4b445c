"""The label filter: does the labelling judge see what was prompted, on its side, and nothing else?

One score covers a finding that is missing, one on the wrong side and one that nobody asked for: how improbable the
judge finds the prompt's labels. The judge learnt from patients that no model of the generator has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import NO_LIMIT, Column, Context, Filter, Prompt, Reason, Scores, percent, quantile_of
from medsynth_core.filters.thumbnails import Images
from medsynth_core.vocabulary.labels import Findings, Label, label_matrix

Floats = npt.NDArray[np.float32]


def label_costs(logits_NL: Floats, labels: Sequence[Label], findings: Sequence[Findings]) -> Floats:
    """Returns the cross-entropy in nats of each label, float32 [N, L], given each image's findings."""
    truth_NL = label_matrix(labels, findings)
    costs: Floats = np.logaddexp(np.float32(0), np.where(truth_NL > 0, -logits_NL, logits_NL))
    return costs


_SCORE, _DIFFER = "score_labels", "labels:differ"


class LabelSettings(Section):
    """Findings other than prompted."""

    quantile: Fraction = 0.03
    """Of the improbability of the prompted findings and sides by the labelling judge."""


class Labels(Filter[LabelSettings, None]):
    """Rejects images whose labels are less probable than almost all real held-out images' own."""

    name = "labels"
    version = 1
    cost = 1.0
    settings = LabelSettings
    columns = (
        Column(
            _SCORE,
            "cross-entropy of the prompted labels by the labelling judge, nats",
            "improbability of the labels",
            "labels",
        ),
    )
    reasons = (Reason(_DIFFER, "findings or sides other than prompted", _SCORE),)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: None) -> Scores:
        """Score: cross-entropy of the prompted labels, nats, summed."""
        logits_NL, _ = context.look()
        return {_SCORE: label_costs(logits_NL, context.labels, [prompt.findings for prompt in prompts]).sum(1)}

    def bounds(self, scores: Scores, settings: LabelSettings, margin: float) -> dict[str, float]:
        return {"labels": quantile_of(_SCORE, scores[_SCORE], 1 - settings.quantile, NO_LIMIT, margin)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: LabelSettings) -> list[str | None]:
        return [None if cost <= bounds["labels"] else _DIFFER for cost in scores[_SCORE]]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            "Images whose findings or sides a classifier finds otherwise than prompted were rejected: less probable "
            f"than all but {percent(settings['quantile'])} of real held-out images with their own. The classifier "
            "learnt from patients whom no model of the generator has seen."
        )


FILTER = Labels()
