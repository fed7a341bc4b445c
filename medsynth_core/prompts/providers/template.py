"""The offline provider: findings-like prose put together from vocabulary terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medsynth_core.prompts.account import Account
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Reply, RequestedFinding
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.vocabulary import Vocabulary

_STREAM = 22
_ONE = ("There is {}.", "{} is seen.", "{} is present.", "{} is noted.", "There is evidence of {}.")
_SEVERAL = ("There are {}.", "{} are seen.", "{} are present.", "{} are noted.")
_BARE = "{}."
_DENIALS = (
    "No {}.",
    "There is no {}.",
    "No evidence of {}.",
    "Negative for {}.",
    "No {} is seen.",
    "No {} is identified.",
    "There is no evidence of {}.",
)
_NORMAL = {
    "lung": ("The lungs are clear.", "Both lungs are clear.", "Lungs are clear.", "Clear lungs."),
    "heart": (
        "Heart size is normal.",
        "The cardiac silhouette is within normal limits.",
        "The heart is normal in size.",
        "Normal heart size.",
        "Normal cardiac silhouette.",
    ),
    "mediastinum": (
        "The mediastinum is unremarkable.",
        "Mediastinal contours are normal.",
        "The mediastinal silhouette is within normal limits.",
        "Normal mediastinal contours.",
    ),
    "pulmonary vasculature": (
        "The pulmonary vasculature is normal.",
        "Pulmonary vascularity is within normal limits.",
        "Normal pulmonary vascularity.",
    ),
    "bone": (
        "The osseous structures are intact.",
        "Visualized bones are unremarkable.",
        "The bony thorax is intact.",
        "Osseous structures are unremarkable.",
    ),
}
"""Region -> ways to call it normal."""
_TOUCHED = {
    "pulmonary vasculature": ("lung", "heart", "pulmonary artery"),
    "mediastinum": ("hilum", "aorta", "trachea"),
}
"""Region -> others whose findings make one hesitate to call it normal."""
_SIZES = {"mild": "small", "moderate": "moderate", "severe": "large"}
_SIZED = frozenset(
    {
        "consolidation", "cyst", "density", "effusion", "granuloma", "hernia", "infiltrate", "mass", "nodule",
        "opacity", "plaque", "pneumoperitoneum", "pneumothorax", "scar",
    }
)  # fmt: skip
"""Last words of findings that are small or large, not mild or severe."""
_COUNTED = frozenset(
    {
        "abscess", "aneurysm", "aorta", "cyst", "density", "effusion", "fracture", "granuloma", "hemidiaphragm",
        "hernia", "infiltrate", "lesion", "mass", "nodule", "opacity", "osteophyte", "plaque", "plug", "pneumothorax",
        "scar", "contusion", "body", "lobe", "deformity", "deviation", "shift",
    }
)  # fmt: skip
_NEVER_ONE = frozenset({"osteophyte"})
_PLURALS = {"pneumothorax": "pneumothoraces", "opacity": "opacities", "density": "densities", "mass": "masses"}
_AT = ("base", "apex", "angle", "hilum", "arch")
_PAIRED = {
    "lung base": "lung bases",
    "lung apex": "lung apices",
    "hilum": "hila",
    "costophrenic angle": "costophrenic angles",
    "lung": "lungs",
    "diaphragm": "hemidiaphragms",
    "fissure": "fissures",
    "chest wall": "chest walls",
}
"""Places of which there are a left and a right one, and what both are called."""
_HOW = {"mild": "mildly", "moderate": "moderately", "severe": "markedly"}
_ADJECTIVES = frozenset({"elevated", "tortuous"})
_BEFORE = ("lobe", "lung", "rib", "clavicle", "scapula", "shoulder")


class TemplateProvider:
    """Writes from templates; a text depends on (seed, prompt id, attempt) and the vocabulary alone."""

    name = "template"
    keeps = False

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self.settings: dict[str, Any] = {}
        self._seed = seed
        counts = [c for c in vocabulary.pathology if c.n_negated >= vocabulary.min_studies]
        self._denied = [c.term for c in sorted(counts, key=lambda c: (-c.n_negated, c.term))[:10]]
        known = {"lung", "heart", *vocabulary.terms("anatomy")}  # of these two every report may speak
        self._regions = [region for region in _NORMAL if region in known]

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields a text for every request; complaints only choose other wordings."""
        for assignment in assignments:
            text = self._text(assignment.request, assignment.attempt)
            yield Reply((assignment,), (Draft(text),), text)

    def _text(self, request: PromptRequest, attempt: int) -> str:
        draw = np.random.default_rng([self._seed, int(request.prompt_id[1:]), attempt, _STREAM])
        asserted = [_assertion(finding, draw, bool(attempt)) for finding in request.findings]
        rest = [*self._normal_regions(request, draw), *self._denials(request, draw)]
        draw.shuffle(rest)
        return " ".join([*asserted, *rest])

    def _normal_regions(self, request: PromptRequest, draw: np.random.Generator) -> list[str]:
        """Returns which regions are called normal: none that a finding lies in or touches, nor the lungs beside a large
        effusion or pneumothorax."""
        lineage = load_ontology().lineage
        places = {
            name
            for finding in request.findings
            for place in (finding.anatomy, _implied(finding))
            for name in lineage(place)
        }
        if any(f.severity == "severe" and _implied(f) == "pleura" for f in request.findings):
            places.add("lung")
        free = [r for r in self._regions if not places & {r, *_TOUCHED.get(r, ())}]
        wanted = int(draw.integers(2, 4)) if request.findings else int(draw.integers(2, 6))
        first = free[:1] if "lung" in free[:1] else []  # an X-ray report speaks of the lungs
        others = [free[i] for i in draw.permutation(len(free)) if free[i] not in first]
        return [_pick(_NORMAL[region], draw) for region in [*first, *others][:wanted]]

    def _denials(self, request: PromptRequest, draw: np.random.Generator) -> list[str]:
        """Returns which pathologies are denied: none that an asked one is, or appears as."""
        shows = load_ontology().shows
        asked = {name for finding in request.findings for name in shows(finding.pathology)}
        free = [name for name in self._denied if name not in asked]
        n = min(len(free), int(draw.choice([0, 1, 2, 2, 3])))
        if not n:
            return []
        names = [free[i] for i in draw.permutation(len(free))[:n]]
        said = names[0] if n == 1 else f"{', '.join(names[:-1])}{',' if n > 2 else ''} or {names[-1]}"
        return [_pick(_DENIALS, draw).format(said)]


def _assertion(finding: RequestedFinding, draw: np.random.Generator, explicit: bool) -> str:
    """Returns the sentence that asserts a finding; ``explicit`` names its place even where it goes without saying."""
    phrase, counted, several = _phrase(finding, explicit)
    form = _BARE if draw.random() < 0.2 else _pick(_SEVERAL if several else _ONE, draw)
    if counted and not several and form != _BARE:
        phrase = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    sentence = form.format(phrase)
    return sentence[:1].upper() + sentence[1:]


def _phrase(finding: RequestedFinding, explicit: bool) -> tuple[str, bool, bool]:
    """Returns a finding in words, whether it can be counted, and whether it is in the plural."""
    words = finding.pathology.split()
    last = words[-1]
    severity = (_SIZES if last in _SIZED else {}).get(finding.severity or "", finding.severity or "")
    side = "" if finding.side == "none" else finding.side
    place, before, after = finding.anatomy, "", ""
    if place is not None and place not in finding.pathology and (place != _implied(finding) or explicit):
        preposition = "at" if place.endswith(_AT) else "in"
        if place == "lingula":  # there is one, on the left
            after, side = "in the lingula", ""
        elif place.split()[-1] in _BEFORE and place != "lung":
            before = place
        elif place in _PAIRED and side == "bilateral":
            after = f"{preposition} the {_PAIRED[place]}"
        elif place in _PAIRED:
            after, side = f"{preposition} the {side} {place}", ""
        else:
            after = f"{preposition} the {place}"
    if words[0] in _ADJECTIVES:  # "mildly elevated left hemidiaphragm"
        severity, words = f"{_HOW.get(finding.severity or '', '')} {words[0]}".strip(), words[1:]
    elif before and words[0] == "lung":
        words = words[1:]
    counted = last in _COUNTED
    several = last.endswith("s") and not last.endswith(("ss", "is", "us"))
    several = several or (counted and (side == "bilateral" or last in _NEVER_ONE))
    if counted and several:
        words = [*words[:-1], _PLURALS.get(last, f"{last}s")]
    return " ".join(f"{severity} {side} {before} {' '.join(words)} {after}".split()), counted, several


def _implied(finding: RequestedFinding) -> str | None:
    term = load_ontology().terms.get(finding.pathology)
    return term.anatomy if term is not None else None


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[int(draw.integers(len(options)))]
