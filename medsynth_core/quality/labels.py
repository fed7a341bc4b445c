"""The label filter: does a finding classifier see what was prompted, on its side, and nothing else?

One score covers a finding that is missing, one on the wrong side and one that nobody asked for: how improbable the
classifier finds the prompt's labels. The classifier is the one that guided the VQ-GAN in training, so it isn't an
independent judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.corpus.images import to_pixels
from medsynth_core.models.classifier import FindingClassifier, label_vector
from medsynth_core.quality.filters import Images, Judgement, Prompt

Labels = Sequence[tuple[str, str]]
Floats = npt.NDArray[np.float32]
JUDGE = "judge"
"""Folder of the classifier in that of the language model, beside its scores."""


@torch.inference_mode()
def finding_logits(classifier: FindingClassifier, images_u8: Images) -> Floats:
    """Returns the classifier's logits, float32 [N, L]."""
    device = next(classifier.parameters()).device
    logits: Floats = classifier(torch.from_numpy(to_pixels(images_u8))[:, None].to(device)).float().cpu().numpy()
    return logits


def label_costs(logits_NL: Floats, labels: Labels, findings: Sequence[Sequence[Mapping[str, Any]]]) -> Floats:
    """Returns the cross-entropy in nats of each label, float32 [N, L], given each image's findings."""
    truth_NL = np.array([label_vector(labels, each) for each in findings], dtype=np.float32).reshape(logits_NL.shape)
    costs: Floats = np.logaddexp(np.float32(0), np.where(truth_NL > 0, -logits_NL, logits_NL))
    return costs


class LabelFilter:
    """Rejects images whose labels are less probable than almost all real held-out images' own."""

    name = "labels"

    def __init__(self, scorer: Callable[[Images], Floats], labels: Labels, bound: float) -> None:
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
