"""Sampling of what to ask for, from the corpus' own co-occurrence or by target counts (paper, module 1)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from medsynth_core.errors import ConfigError
from medsynth_core.models.condition import RequestedFinding
from medsynth_core.nearest import did_you_mean
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.prompts.settings import PromptsConfig
from medsynth_core.random import stream
from medsynth_core.vocabulary.mining import mine_report
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.vocabulary import Vocabulary

K = TypeVar("K")


@dataclass(frozen=True)
class Target:
    """A finding that so many prompts are led by; a side or severity of None is drawn."""

    pathology: str
    side: str | None
    severity: str | None
    n: int


def sample_requests(vocabulary: Vocabulary, config: PromptsConfig, view: str, seed: int) -> list[PromptRequest]:
    """Returns ``config.n`` requests; request i depends on (seed, i), the targets and the vocabulary alone.

    The number of findings follows the corpus; the first pathology its counts, each next one those that were seen
    together with all before it; place, side and severity the pathology's own, where ``smoothing`` draws the severity
    apart from the place. What was never seen together is never asked for. Targets lead as many prompts as they ask.

    Raises:
        ConfigError: a target names no finding of the vocabulary, or the targets exceed ``prompts.n``.
    """
    targets = [parse_target(text, n, vocabulary) for text, n in sorted(config.targets.items())]
    leads = [target for target in targets for _ in range(target.n)]
    if len(leads) > config.n:
        raise ConfigError(
            f"prompts.targets and release.quotas ask for {len(leads)} prompts, more than prompts.n={config.n}; raise it"
        )
    joint = _Joint(vocabulary, config)
    for target in targets:
        joint.require(target)
    requests = []
    for index in range(config.n):
        draw = stream(seed, "prompts.request", index)
        findings = joint.findings(leads[index] if index < len(leads) else None, draw)
        requests.append(PromptRequest(f"p{index:05d}", findings, view))
    return requests


def parse_target(text: str, n: int, vocabulary: Vocabulary, where: str = "prompts.targets") -> Target:
    """Returns a target as the miner reads it: "large left pleural effusion".

    Args:
        where: parameter that holds it, for the messages.

    Raises:
        ConfigError: it isn't one finding of the vocabulary.
    """
    said = [m for m in mine_report(text) if m.kind == "pathology"]
    if len(said) == 1 and said[0].asserted and said[0].term in vocabulary.terms("pathology"):
        side = None if said[0].side == "none" else said[0].side
        return Target(said[0].term, side, said[0].severity, n)
    if len(said) == 1 and not said[0].asserted:
        raise ConfigError(f"{where}: {text!r} isn't asserted")
    if len(said) > 1:
        found = ", ".join(mention.term for mention in said)
        raise ConfigError(f"{where}: {text!r} is more than one finding ({found}); give each its own count")
    name = said[0].term if said else text
    hint = did_you_mean(name, vocabulary.terms("pathology"))
    raise ConfigError(f"{where}: pathology {name!r} is not in the vocabulary{hint}")


class _Joint:
    """The corpus' joint distribution of pathologies, places, sides and severities."""

    def __init__(self, vocabulary: Vocabulary, config: PromptsConfig) -> None:
        self._config = config
        self._counts = {count.term: float(count.n_studies) for count in vocabulary.pathology}
        self._together: dict[str, dict[str, float]] = defaultdict(dict)
        excludes = load_ontology().excludes
        for pair in vocabulary.pairs:
            if pair.n >= config.min_together and not excludes(pair.a, pair.b):
                self._together[pair.a][pair.b] = self._together[pair.b][pair.a] = float(pair.n)
        self._seen: dict[str, Counter[tuple[str | None, str, str | None]]] = defaultdict(Counter)
        for count in vocabulary.findings:
            self._seen[count.pathology][count.anatomy, count.side, count.severity] += count.n
        share = vocabulary.n_normal / vocabulary.n_studies
        self._normal_share = share if config.normal_fraction is None else config.normal_fraction
        sizes = {int(k): float(n) for k, n in vocabulary.findings_a_study.items() if int(k) <= config.max_findings}
        self._sizes = sizes or {1: 1.0}

    def require(self, target: Target) -> None:
        """Checks that a target can be met.

        Raises:
            ConfigError: the corpus never shows the finding on that side, or of that severity.
        """
        if not self._places(target.pathology, target.side, target.severity):
            sides = sorted({side for _, side, _ in self._seen[target.pathology]})
            severities = sorted({severity or "none" for _, _, severity in self._seen[target.pathology]})
            raise ConfigError(
                f"prompts.targets: the corpus never shows {target.pathology} with side {target.side or 'any'} and "
                f"severity {target.severity or 'any'} (sides seen: {', '.join(sides)}; severities: "
                f"{', '.join(severities)})"
            )

    def findings(self, lead: Target | None, draw: np.random.Generator) -> tuple[RequestedFinding, ...]:
        """Returns the findings of one request; none for a normal chest."""
        if lead is None and draw.random() < self._normal_share:
            return ()
        size = _choose(self._sizes, draw)
        first = lead.pathology if lead is not None else _choose(self._flat(self._counts), draw)
        names = [first]
        while len(names) < size:
            partners = self._partners(names)
            if not partners:
                break
            names.append(_choose(partners, draw))
        sides = [lead.side if lead else None, *[None] * size]
        severities = [lead.severity if lead else None, *[None] * size]
        return tuple(
            self._finding(name, side, severity, draw)
            for name, side, severity in zip(names, sides, severities, strict=False)
        )

    def _partners(self, names: list[str]) -> dict[str, float]:
        """Returns what was seen together with each of ``names``, weighted by the geometric mean of the counts."""
        candidates = set.intersection(*(set(self._together[name]) for name in names)) - set(names)
        weights = {
            candidate: math.prod(self._together[name][candidate] for name in names) ** (1 / len(names))
            for candidate in sorted(candidates)
        }
        return self._flat(weights)

    def _finding(
        self, name: str, side: str | None, severity: str | None, draw: np.random.Generator
    ) -> RequestedFinding:
        places = self._places(name, side, severity)
        if severity is None and draw.random() < self._config.smoothing:
            anatomy, at_side = _choose(_marginal(places, (0, 1)), draw)
            (degree,) = _choose(_marginal(places, (2,)), draw)
        else:
            anatomy, at_side, degree = _choose(places, draw)
        return RequestedFinding(name, load_ontology().room_for(name, anatomy, degree), at_side, degree)

    def _places(
        self, name: str, side: str | None, severity: str | None
    ) -> dict[tuple[str | None, str, str | None], float]:
        """Returns the places, sides and severities in which a pathology was seen often enough, with their counts.

        What doesn't say where the finding is comes only where nothing else was seen often enough. Where a severity is
        asked for that was seen, but not at these places, it is put to the places' counts.
        """
        seen = {key: float(n) for key, n in self._seen[name].items() if side in (None, key[1])}
        often = {place for place, n in _marginal(seen, (0, 1)).items() if n >= self._config.min_together}
        common = {place for place in often if _is_placed(name, *place)} or often
        kept = {key: n for key, n in seen.items() if not common or key[:2] in common}
        if severity is None:
            return kept
        exact = {key: n for key, n in kept.items() if key[2] == severity}
        if exact or not any(key[2] == severity for key in self._seen[name]):
            return exact
        return {(*place, severity): n for place, n in _marginal(kept, (0, 1)).items()}

    def _flat(self, weights: dict[K, float]) -> dict[K, float]:
        return {key: weight ** (1 - self._config.flatten) for key, weight in weights.items()}


def _is_placed(name: str, anatomy: str | None, side: str) -> bool:
    """Returns whether one knows where a finding is; "calcification", "left density" and "a fracture" don't say."""
    ontology = load_ontology()
    where = ontology.usual_place(name) if anatomy is None else anatomy
    if where is None or (anatomy is None and side != "none"):
        return False
    term = ontology.terms.get(name)
    return not ontology.terms[where].collective or (term is not None and term.whole)


def _marginal(counts: dict[tuple, float], places: tuple[int, ...]) -> dict[tuple, float]:
    sums: dict[tuple, float] = defaultdict(float)
    for key, n in counts.items():
        sums[tuple(key[place] for place in places)] += n
    return dict(sums)


def _choose(weights: dict[K, float], draw: np.random.Generator) -> K:
    keys = list(weights)
    shares = np.array(list(weights.values()))
    return keys[int(draw.choice(len(keys), p=shares / shares.sum()))]
