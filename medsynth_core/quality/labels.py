"""The label filter: does the labelling judge see what was prompted, on its side, and nothing else?

One score covers a finding that is missing, one on the wrong side and one that nobody asked for: how improbable the
judge finds the prompt's labels. The judge learnt from patients that no model of the generator has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.filters import Features, Images, Judgement, Prompt
from medsynth_core.vocabulary.labels import Findings, Label, label_matrix

Floats = npt.NDArray[np.float32]
JUDGE = "judge"
"""Folder of the judge in that of the language model, beside its scores: who takes one along has both."""


def label_costs(logits_NL: Floats, labels: Sequence[Label], findings: Sequence[Findings]) -> Floats:
    """Returns the cross-entropy in nats of each label, float32 [N, L], given each image's findings."""
    truth_NL = label_matrix(labels, findings)
    costs: Floats = np.logaddexp(np.float32(0), np.where(truth_NL > 0, -logits_NL, logits_NL))
    return costs


class LabelFilter:
    """Rejects images whose labels are less probable than almost all real held-out images' own."""

    name = "labels"

    def __init__(
        self, look: Callable[[Images], tuple[Floats, Features]], labels: Sequence[Label], bound: float
    ) -> None:
        """Takes what returns logits, float32 [N, L], of ``labels``, and features, and the bound in nats."""
        self._look = look
        self._labels = labels
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: cross-entropy of the prompted labels, nats, summed."""
        logits_NL, features_NF = self._look(images_u8)
        costs_NL = label_costs(logits_NL, self._labels, [prompt.findings for prompt in prompts])
        return [
            Judgement({"score_labels": float(cost)}, None if cost <= self._bound else "labels:differ", features)
            for cost, features in zip(costs_NL.sum(1), features_NF, strict=True)
        ]
