"""Findings-like prose, put together from the terms of a vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medsynth_core.models.condition import RequestedFinding
from medsynth_core.random import stream
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.vocabulary import Vocabulary

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
_SIZES = {"mild": "small", "moderate": "moderate", "severe": "large"}
_SIZED = frozenset(
    {
        "calcification", "consolidation", "cyst", "density", "effusion", "granuloma", "hernia", "infiltrate", "mass",
        "nodule", "opacity", "osteophyte", "plaque", "pneumoperitoneum", "pneumothorax", "scar",
    }
)  # fmt: skip
"""Last words of findings that are small or large, not mild or severe."""
_COUNTED = frozenset(
    {
        "abscess", "aneurysm", "aorta", "body", "calcification", "consolidation", "contusion", "cyst", "deformity",
        "density", "deviation", "effusion", "fracture", "granuloma", "hemidiaphragm", "hernia", "infiltrate", "lesion",
        "lobe", "mass", "nodule", "opacity", "osteophyte", "plaque", "plug", "pneumothorax", "scar", "shift",
    }
)  # fmt: skip
_MEASURED = frozenset({"calcification", "cyst", "density", "granuloma", "mass", "nodule", "opacity", "plaque", "scar"})
_UNCOUNTED = frozenset({"aortic calcification"})
"""Findings that are neither sized nor counted, whatever their last word says."""
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
    "rib": "ribs",
    "clavicle": "clavicles",
    "scapula": "scapulae",
    "shoulder": "shoulders",
}
"""Places of which there are a left and a right one, and what both are called."""
_IN_TEXT = {"bone": "bones", "soft tissue": "soft tissues", "lymph node": "lymph nodes"}
"""Places that are spoken of in the plural."""
_HOW = {"mild": "mildly", "moderate": "moderately", "severe": "markedly"}
_ADJECTIVES = frozenset({"elevated", "increased", "low", "tortuous"})
_BEFORE = ("lobe", "lung")
_BROKEN = {"rib": "rib", "clavicle": "clavicle", "scapula": "scapular", "shoulder": "shoulder", "spine": "vertebral"}
"""Bones -> what a fracture of them is called."""


class Phrasing:
    """Writes texts; one depends on what it is given and the vocabulary alone."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        counts = [c for c in vocabulary.pathology if c.n_negated >= vocabulary.min_studies]
        self._denied = [c.term for c in sorted(counts, key=lambda c: (-c.n_negated, c.term))[:10]]
        called_normal = load_ontology().called_normal
        spoken_of = ("lung", "heart", *vocabulary.terms("anatomy"))  # of these two every report may speak
        known = {region for name in spoken_of for region in called_normal(name)}
        self._regions = [region for region in _NORMAL if region in known]

    def text(
        self,
        findings: Sequence[RequestedFinding],
        draw: np.random.Generator,
        explicit: bool = False,
        undecided: Collection[str] = (),
    ) -> str:
        """Returns a text that asserts findings, calls some of what they leave alone normal, and denies some others.

        Args:
            explicit: whether places are named that go without saying.
            undecided: pathologies of which nothing may be said.
        """
        asserted = [_assertion(finding, draw, explicit) for finding in findings]
        rest = [*self._normal_regions(findings, draw, undecided), *self._denials(findings, draw, undecided)]
        draw.shuffle(rest)
        return " ".join([*asserted, *rest])

    def of_study(
        self, findings: Iterable[Mapping[str, Any]], undecided: Collection[str], name: str, wording: int = 0
    ) -> str:
        """Returns a text of what is known of a study without a report.

        Args:
            findings: with the keys pathology, anatomy, side, severity.
            undecided: as ``text``'s.
            name: the study's; others are worded in another way.
            wording: so are others of these.
        """
        asked = [RequestedFinding(**finding) for finding in findings]
        return self.text(asked, stream(wording, "phrasing.study", name), undecided=undecided)

    def _normal_regions(
        self, findings: Sequence[RequestedFinding], draw: np.random.Generator, undecided: Collection[str]
    ) -> list[str]:
        """Returns which regions are called normal: none that a finding lies in or affects, or may."""
        ontology = load_ontology()
        touched = {name for f in findings for name in ontology.affected(f.pathology, f.anatomy, f.severity)}
        touched |= {name for each in undecided for name in ontology.affected(each, ontology.usual_place(each), None)}
        free = [region for region in self._regions if region not in touched]
        wanted = int(draw.integers(2, 4)) if findings else int(draw.integers(2, 6))
        first = free[:1] if "lung" in free[:1] else []  # an X-ray report speaks of the lungs
        others = [free[i] for i in draw.permutation(len(free)) if free[i] not in first]
        return [_pick(_NORMAL[region], draw) for region in [*first, *others][:wanted]]

    def _denials(
        self, findings: Sequence[RequestedFinding], draw: np.random.Generator, undecided: Collection[str]
    ) -> list[str]:
        """Returns which pathologies are denied: none that an asked one is, or appears as."""
        shows = load_ontology().shows
        asked = {name for each in (*(f.pathology for f in findings), *undecided) for name in shows(each)}
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
    last = "" if finding.pathology in _UNCOUNTED else words[-1]
    severity = (_SIZES if last in _SIZED else {}).get(finding.severity or "", finding.severity or "")
    if severity == "moderate" and last in _MEASURED:
        severity = "moderate-sized"
    side = "" if finding.side == "none" else finding.side
    place, before, after = finding.anatomy, "", ""
    implied = load_ontology().usual_place(finding.pathology)
    one_side = side in {"left", "right"}
    untold = place != implied or explicit or (place in _PAIRED and one_side)  # "right scar" leaves one asking where
    if place is not None and untold and not _names(finding.pathology, place, implied):
        preposition = "at" if place.endswith(_AT) else "in"
        if place == "lingula":  # there is one, on the left
            after, side = "in the lingula", ""
        elif place == "hilum" and "lung" in load_ontology().affected(finding.pathology, place, None):
            before = "perihilar"
        elif last == "fracture" and place in _BROKEN:
            before = _BROKEN[place]
        elif place.endswith(_BEFORE) and place != "lung":
            before = place
        elif place in _PAIRED and side == "bilateral":
            after = f"{preposition} the {_PAIRED[place]}"
        elif one_side:
            after, side = f"{preposition} the {side} {_IN_TEXT.get(place, place)}", ""
        else:
            after = f"{preposition} the {_IN_TEXT.get(place, place)}"
    if words[0] in _ADJECTIVES:  # "mildly elevated left hemidiaphragm"
        severity, words = f"{_HOW.get(finding.severity or '', '')} {words[0]}".strip(), words[1:]
    elif (before or after) and words[0] == "lung":
        words = words[1:]
    counted = last in _COUNTED
    several = last.endswith("s") and not last.endswith(("ss", "is", "us"))
    several = several or (counted and (side == "bilateral" or last in _NEVER_ONE))
    if counted and several:
        words = [*words[:-1], _PLURALS.get(last, f"{last}s")]
    return " ".join(f"{severity} {side} {before} {' '.join(words)} {after}".split()), counted, several


def _names(pathology: str, place: str, implied: str | None) -> bool:
    """Returns whether a finding's name says its place: "lung nodule", and of where it usually is the adjective."""
    return place in pathology or (place == implied and place[:3] in pathology)  # hilum and hilar, fissure and fissural


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[int(draw.integers(len(options)))]
