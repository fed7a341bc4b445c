"""Sampling of what to ask for, from the corpus' own co-occurrence or by target counts (paper, module 1)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from medsynth_core.config.tree import PromptsConfig
from medsynth_core.errors import ConfigError
from medsynth_core.prompts.records import PromptRequest, RequestedFinding
from medsynth_core.vocabulary.vocabulary import FindingCount, Vocabulary

K = TypeVar("K")


def sample_requests(vocabulary: Vocabulary, config: PromptsConfig, view: str, seed: int) -> list[PromptRequest]:
    """Returns ``config.n`` requests; request i depends on (seed, i) and on the vocabulary alone.

    Without targets, the number of findings follows the corpus, the first pathology its counts, the next ones
    those seen together with it; place, side and severity follow the chosen pathology. With targets, each term
    leads as many prompts as asked; the rest is sampled.

    Raises:
        ConfigError: a target is not in the vocabulary, or the targets exceed ``prompts.n``.
    """
    for term in config.targets:
        vocabulary.require_pathology(term, "prompts.targets")
    wanted = [term for term, n in sorted(config.targets.items()) for _ in range(n)]
    if len(wanted) > config.n:
        raise ConfigError(f"prompts.targets ask for {len(wanted)} prompts, more than prompts.n={config.n}")
    tables = _Tables(vocabulary, config)
    requests = []
    for index in range(config.n):
        draw = np.random.default_rng([seed, index, 21])
        lead = wanted[index] if index < len(wanted) else None
        names = tables.pathologies(lead, draw)
        findings = tuple(tables.finding(name, draw) for name in names)
        requests.append(PromptRequest(f"p{index:05d}", findings, view))
    return requests


class _Tables:
    """Counts turned into distributions."""

    def __init__(self, vocabulary: Vocabulary, config: PromptsConfig) -> None:
        self.singles = {count.term: float(count.n_studies) for count in vocabulary.pathology}
        self.partners: dict[str, dict[str, float]] = {}
        for pair in vocabulary.pairs:
            self.partners.setdefault(pair.a, {})[pair.b] = float(pair.n)
            self.partners.setdefault(pair.b, {})[pair.a] = float(pair.n)
        self.places: dict[str, list[FindingCount]] = {}
        for count in vocabulary.findings:
            self.places.setdefault(count.pathology, []).append(count)
        share = vocabulary.n_normal / vocabulary.n_studies
        self.normal_share = share if config.normal_fraction is None else config.normal_fraction
        sizes = {int(k): float(n) for k, n in vocabulary.findings_a_study.items() if int(k) <= config.max_findings}
        self.sizes = sizes or {1: 1.0}

    def pathologies(self, lead: str | None, draw: np.random.Generator) -> list[str]:
        if lead is None and draw.random() < self.normal_share:
            return []
        size = _choose(self.sizes, draw)
        names = [lead or _choose(self.singles, draw)]
        while len(names) < size:
            together = {n: c for n, c in self.partners.get(names[0], {}).items() if n not in names}
            if not together:
                break
            names.append(_choose(together, draw))
        return names

    def finding(self, name: str, draw: np.random.Generator) -> RequestedFinding:
        counts = self.places[name]
        place = counts[int(_choose({i: float(c.n) for i, c in enumerate(counts)}, draw))]
        return RequestedFinding(name, place.anatomy, place.side, place.severity)


def _choose(weights: dict[K, float], draw: np.random.Generator) -> K:
    keys = list(weights)
    shares = np.array(list(weights.values()))
    return keys[int(draw.choice(len(keys), p=shares / shares.sum()))]
