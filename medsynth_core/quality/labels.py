"""The label filter: does the labelling judge see what was prompted, on its side, and nothing else?

One score covers a finding that is missing, one on the wrong side and one that nobody asked for: how improbable the
judge finds the prompt's labels. The judge learnt from patients that no model of the generator has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medsynth_core.corpus.images import to_pixels
from medsynth_core.quality.filters import Images, Judgement, Prompt
from medsynth_core.vocabulary.labels import Findings, Label, label_matrix

Floats = npt.NDArray[np.float32]
JUDGE = "judge"
"""Folder of the judge in that of the language model, beside its scores: who takes one along has both."""


@torch.inference_mode()
def finding_logits(judge: nn.Module, images_u8: Images) -> Floats:
    """Returns the judge's logits, float32 [N, L]."""
    device = next(judge.parameters()).device
    logits: Floats = judge(torch.from_numpy(to_pixels(images_u8))[:, None].to(device)).float().cpu().numpy()
    return logits


def label_costs(logits_NL: Floats, labels: Sequence[Label], findings: Sequence[Findings]) -> Floats:
    """Returns the cross-entropy in nats of each label, float32 [N, L], given each image's findings."""
    truth_NL = label_matrix(labels, findings)
    costs: Floats = np.logaddexp(np.float32(0), np.where(truth_NL > 0, -logits_NL, logits_NL))
    return costs


class LabelFilter:
    """Rejects images whose labels are less probable than almost all real held-out images' own."""

    name = "labels"

    def __init__(self, scorer: Callable[[Images], Floats], labels: Sequence[Label], bound: float) -> None:
        """Takes what returns logits, float32 [N, L], of ``labels``, and the bound in nats."""
        self._scorer = scorer
        self._labels = labels
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: cross-entropy of the prompted labels, nats, summed."""
        findings = [prompt.findings for prompt in prompts]
        costs_NL = label_costs(self._scorer(images_u8), self._labels, findings)
        return [
            Judgement({"score_labels": float(cost)}, None if cost <= self._bound else "labels:differ")
            for cost in costs_NL.sum(1)
        ]
