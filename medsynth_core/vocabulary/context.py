"""What the words right around a finding say of it, beside the triggers that rule a whole clause: that it is there
whatever is asked beside it, that it is over, that it begins anew, or that it is the shadow of something else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from medsynth_core.vocabulary.modifiers import said_severities, said_sides
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.spans import Span

_DEFINITE = frozenset(["the", "this", "these", "that", "those"])
_PLACING = frozenset(
    [
        "in", "within", "inside", "into", "around", "beside", "near", "under", "beneath", "underneath", "behind",
        "over", "alongside",
    ]
)  # fmt: skip
_PLACING_PAIRS = frozenset([("adjacent", "to"), ("next", "to"), ("close", "to"), ("superimposed", "on")])
_GROWTH = frozenset(
    [
        "growth", "enlargement", "expansion", "progression", "worsening", "increase", "infection", "superinfection",
        "cavitation", "loculation", "displacement", "extension",
    ]
)  # fmt: skip
"""What only something that is there can show: "growth of the nodule is not excluded"."""
_KNOWN = frozenset(
    [
        "known", "same", "existing", "residual", "remaining", "underlying", "overlying", "adjacent", "associated",
        "visible", "dominant", "larger", "smaller", "sided", "new", "described", "main",
    ]
)  # fmt: skip
_MAX_BETWEEN = 5
_ASKING_IF = frozenset(["unclear", "clear", "sure", "certain", "uncertain", "determine", "tell", "know"])
_BEING = frozenset(
    [
        "is", "are", "was", "were", "has", "have", "represent", "reflect", "relate", "contain", "indicate", "remain",
    ]
)  # fmt: skip
_DOUBTED = frozenset(
    [
        "present", "absent", "seen", "visible", "there", "real", "genuine", "true", "apparent", "evident",
        "visualized", "demonstrated", "identified", "found", "resolved", "cleared", "disappeared", "recurred",
        "returned", "developed", "gone", "been", "artifactual", "an", "any",
    ]
)  # fmt: skip
"""What is asked of a finding that may not be there: "whether the nodule is real"."""
_OVER = frozenset(["previous", "prior", "past", "old", "treated", "healed", "former", "inactive", "quiescent"])
_PERSISTING = frozenset(["again", "persist", "appear"])
_GOES_ON = frozenset(["stable", "unchanged", "persistent", "known", "improved", "improving"])
"""Said of what is there, at the beginning of a statement without a verb."""
_ALSO_DENIED = frozenset(
    [
        "large", "lg", "big", "marked", "markedly", "massive", "gross", "significant", "significantly", "advanced",
        "extensive", "severe", "little",
    ]
)  # fmt: skip
"""Degrees that are denied as often, which a side has to follow."""
_JOINTS = frozenset([",", "or", "nor", "and", "(", ":"])
_ARTIFACTS = frozenset(
    [
        "electrode", "lead", "fold", "nipple", "summation", "superimposition", "overlap", "artifact", "artefact",
        "button", "hair", "braid", "clothing", "gown", "end", "vessel", "cartilage", "sticker",
    ]
)  # fmt: skip
_IS_ARTIFACT = re.compile(
    r"\b(?<!may )(?<!might )(?<!could )(?<!can )(?<!possibly )(?<!likely )(?<!probably )"
    r"(?<!most )(?<!not )"
    r"(?:(?:is|are|was|were|proved? to be|turn(?:ed)? out to be)(?: due to| caused by| explained by| produced by)?"
    r"|represent|reflect|correspond to)(?: an?| the)?"
    r"(?: (?!not|near|over|overlying|under|behind|likely|probably|possibly)\w+)?? "
    r"(?:electrode|(?:ecg|ekg|monitor|monitoring) lead|skin fold|nipple(?: shadow)?|summation(?: shadow| of shadow)?"
    r"|superimposition|overlap|artifact|artefact|button(?! battery)|hair|braid|clothing|gown|vessel (?:seen )?end on"
    r"|end on vessel|costal cartilage|sticker)\b"
)
"""What makes a finding the shadow of something else: "the apparent nodule is an electrode"."""

_CONDITIONS = frozenset(["if", "unless", "whether"])


def explained_away(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields where a sentence says that what it named before is the shadow of something else."""
    if not _ARTIFACTS.isdisjoint(words):
        text = " ".join(words)
        for found in _IS_ARTIFACT.finditer(text):
            start = text.count(" ", 0, found.start())
            if _CONDITIONS.isdisjoint(words[max(0, start - 3) : start]):
                yield start, start + found.group().count(" ") + 1


def begins_anew(words: Sequence[str], spans: Sequence[Span]) -> list[int]:
    """Returns where, in a sentence without punctuation, a statement begins right behind a finding: with a degree or a
    word for what goes on, and a finding ("no pneumothorax no effusion | mild cardiomegaly")."""
    if len(spans) < 2 or "or" in words or "nor" in words or not ("no" in words or "without" in words):
        return []
    findings = [span for span in spans if span.term.kind == "pathology"]
    starts = []
    for before, span in pairwise(findings):
        start = before.end
        between = words[start : span.start]
        if "," in words[:start] or not between or len(between) > _MAX_BETWEEN or not _JOINTS.isdisjoint(between):
            continue
        degree = said_severities(words[start : start + 2])[0]
        if degree and between[0] in _ALSO_DENIED:
            degree = next(filter(None, said_sides(between)), None)
        if degree or between[0] in _GOES_ON:
            starts.append(start)
    return starts


def is_over(words: Sequence[str], span: Span, spans: Sequence[Span]) -> str:
    """Returns the word that says of an illness that it is over ("previous tuberculosis"), "" where none does."""
    if not span.term.passes or _OVER.isdisjoint(words):
        return ""
    following = words[span.end] if span.end < len(words) else ""
    if following in _BEING or following in _PERSISTING:
        return ""
    head = _head(words, span.start, spans)
    return next((word for word in words[max(head, 0) : span.start] if word in _OVER), "")


def is_given(words: Sequence[str], span: Span, spans: Sequence[Span]) -> bool:
    """Returns whether a finding is there whatever is denied or asked beside it: it is where something is looked for
    ("no cavity within the consolidation"), what may have grown, or what is asked about as such ("whether the density is
    a mass")."""
    article = _head(words, span.described, spans)
    if article < 1 or words[article] not in _DEFINITE:
        return False
    before = words[article - 1]
    if before in _PLACING or (*words[max(0, article - 2) : article],) in _PLACING_PAIRS:
        return True
    if before == "of":
        return article > 1 and words[article - 2] in _GROWTH
    if before != "whether" and not (before == "if" and article > 1 and words[article - 2] in _ASKING_IF):
        return False
    high = min((s.start for s in spans if s.start >= span.end and s.term.kind == "pathology"), default=len(words))
    being = next((i for i in range(span.end, high) if words[i] in _BEING), None)
    if being is None or not span.literal or not _JOINTS.isdisjoint(words[span.end : being]):
        return False
    said = next((word for word in words[being + 1 :] if not word.endswith("ly")), "present")
    return said not in _DOUBTED


def _head(words: Sequence[str], start: int, spans: Sequence[Span]) -> int:
    """Returns where the word is that stands before what a finding at ``start`` is described by: side, degree, place and
    kind; -1 at the beginning of the sentence."""
    placed = {i for other in spans if other.term.kind == "anatomy" for i in range(other.start, other.end)}
    known = load_ontology().descriptors
    degrees, sides = said_severities(words), said_sides(words)
    low = max(-1, start - 1 - _MAX_BETWEEN)
    return next(
        (
            i
            for i in range(start - 1, low, -1)
            if not (i in placed or words[i] in _KNOWN or degrees[i] or sides[i] or (words[i],) in known)
        ),
        low,
    )
