"""Quotas: how many accepted images of a finding a release must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsynth_core.models.condition import Condition
from medsynth_core.prompts.sampling import parse_target
from medsynth_core.prompts.settings import PromptsParams
from medsynth_core.vocabulary.vocabulary import Vocabulary

_VIEWS = ("frontal", "lateral")
_NORMAL = ("normal", "no finding")


@dataclass(frozen=True)
class Quota:
    """At least ``n`` images of a finding.

    Attributes:
        text: as it was written.
        pathology: None for any, "" for a normal chest.
        side, severity, view: None for any.
    """

    text: str
    pathology: str | None
    side: str | None
    severity: str | None
    view: str | None
    n: int

    def counts(self, condition: Condition) -> bool:
        """Returns whether an image that is asked to be so counts."""
        if self.view not in (None, condition.view):
            return False
        if not self.pathology:
            return self.pathology is None or not condition.findings
        return any(
            finding["pathology"] == self.pathology
            and self.side in (None, finding["side"])
            and self.severity in (None, finding["severity"])
            for finding in condition.findings
        )


def parse_quotas(quotas: Mapping[str, int], vocabulary: Vocabulary) -> list[Quota]:
    """Returns quotas as the miner reads them: "large left pleural effusion", "lateral pneumothorax", "normal".

    Raises:
        ConfigError: one isn't a finding of the vocabulary.
    """
    parsed = []
    for text, n in sorted(quotas.items()):
        view, rest = _view_and_rest(text)
        if rest in ("", *_NORMAL):
            parsed.append(Quota(text, "" if rest else None, None, None, view, n))
        else:
            target = parse_target(rest, n, vocabulary, "release.quotas")
            parsed.append(Quota(text, target.pathology, target.side, target.severity, view, n))
    return parsed


def _view_and_rest(text: str) -> tuple[str | None, str]:
    words = text.lower().split()
    view = next((view for view in _VIEWS if view in words), None)
    return view, " ".join(word for word in words if word != view)


def targets_with_quotas(params: PromptsParams, vocabulary: Vocabulary) -> dict[str, int]:
    """Returns ``prompts.targets``, with as many prompts for each quota of a finding in the wanted view as its images
    need when all are accepted.

    Raises:
        ConfigError: a quota isn't a finding of the vocabulary.
    """
    targets = dict(params.prompts.targets)
    for quota in parse_quotas(params.quotas, vocabulary):
        if quota.pathology and quota.view in (None, params.view):
            _, text = _view_and_rest(quota.text)
            wanted = -(-quota.n // params.samples_per_prompt)
            targets[text] = max(targets.get(text, 0), wanted)
    return targets


def tally(quotas: Sequence[Quota], rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """Returns how many of the manifest's rows count for each quota."""
    counts = [0] * len(quotas)
    for condition in map(Condition.of, rows):
        for place, quota in enumerate(quotas):
            counts[place] += quota.counts(condition)
    return counts
