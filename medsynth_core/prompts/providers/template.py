"""The offline provider: findings-like prose put together from vocabulary terms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsynth_core.prompts.records import Draft, PromptRequest, RequestedFinding
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.vocabulary import Vocabulary

_OPENINGS = ("There is {}.", "{} is seen.", "{} is present.", "{}.", "{} is noted.")
_NEGATIONS = ("No {}.", "There is no {}.", "No evidence of {}.", "Negative for {}.")
_NORMAL_LUNG = ("The lungs are clear.", "Both lungs are clear.", "Lungs are well expanded and clear.")
_NORMAL_HEART = ("Heart size is normal.", "The cardiac silhouette is within normal limits.")
_NORMAL_REST = ("The osseous structures are intact.", "Visualized bones are unremarkable.", "")
_SIZES = {"mild": "small", "moderate": "moderate", "severe": "large"}
_SIZED = frozenset({"pleural effusion", "pneumothorax", "consolidation", "lung nodule", "mass", "opacity"})
_CHEST_WALLS = frozenset({"heart", "bone", "spine", "rib", "aorta", "mediastinum", "diaphragm", "hilum", "pericardium"})


class TemplateProvider:
    """Writes from templates; deterministic from (seed, prompt id, attempt)."""

    name = "template"

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self._seed = seed
        counts = [c for c in vocabulary.pathology if c.n_negated >= vocabulary.min_studies]
        self._denied = [c.term for c in sorted(counts, key=lambda c: (-c.n_negated, c.term))[:8]]

    def write(self, requests: Sequence[PromptRequest], complaints: Sequence[str | None], attempt: int) -> list[Draft]:
        """Returns a text for every request; complaints only choose other wordings."""
        return [Draft(self._text(request, attempt)) for request in requests]

    def _text(self, request: PromptRequest, attempt: int) -> str:
        draw = np.random.default_rng([self._seed, int(request.prompt_id[1:]), attempt, 22])
        sentences = [_positive(finding, draw, attempt) for finding in request.findings]
        asked = {finding.pathology for finding in request.findings}
        places = {_implied(finding) for finding in request.findings}
        if not places - _CHEST_WALLS:
            sentences.append(_pick(_NORMAL_LUNG, draw))
        if "heart" not in places and draw.random() < 0.6:
            sentences.append(_pick(_NORMAL_HEART, draw))
        denied = [name for name in self._denied if name not in asked]
        if len(denied) >= 2 and draw.random() < 0.8:
            first, second = draw.choice(len(denied), 2, replace=False)
            sentences.append(_pick(_NEGATIONS, draw).format(f"{denied[first]} or {denied[second]}"))
        sentences.append(_pick(_NORMAL_REST, draw))
        return " ".join(sentence for sentence in sentences if sentence)


def _positive(finding: RequestedFinding, draw: np.random.Generator, attempt: int) -> str:
    severity = finding.severity or ""
    if finding.pathology in _SIZED:
        severity = _SIZES.get(severity, "")
    side = "" if finding.side == "none" else finding.side
    place = finding.anatomy
    before = after = ""
    if place is not None and (place != _implied(finding) or draw.random() < 0.3 or attempt > 0):
        if place.endswith("lobe") or place == "mid lung":
            before = place
        elif place != "heart":
            after = f"{'at' if place.endswith(('base', 'apex', 'angle', 'hilum')) else 'in'} the {place}"
    phrase = " ".join(f"{severity} {side} {before} {_stem(finding.pathology, before)} {after}".split())
    sentence = _pick(_OPENINGS, draw).format(phrase)
    return sentence[:1].upper() + sentence[1:]


def _stem(pathology: str, before: str) -> str:
    return pathology.removeprefix("lung ") if before else pathology


def _implied(finding: RequestedFinding) -> str | None:
    return load_ontology().terms[finding.pathology].anatomy


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[int(draw.integers(len(options)))]
