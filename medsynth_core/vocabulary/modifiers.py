"""Side, severity and place of a finding, linked by nearness within its part of the sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medsynth_core.vocabulary.ontology import Term, load_ontology
from medsynth_core.vocabulary.spans import Span

_SIDES = {
    "left": "left",
    "leftward": "left",
    "right": "right",
    "rightward": "right",
    **dict.fromkeys(["bilateral", "bilaterally", "both", "bibasilar", "biapical", "bibasal"], "bilateral"),
}
_SEVERITIES = {
    word: severity
    for severity, words in {
        "mild": "mild mildly minimal minimally small tiny slight slightly trace subtle minor borderline faint little",
        "moderate": "moderate moderately",
        "severe": "severe severely large marked markedly extensive massive gross significant significantly advanced",
    }.items()
    for word in words.split()
}
_BOTH_SIDES = re.compile(
    r"\b(?:left|right)(?: sided)? (?:and|(?:greater|more|larger|worse|less) than)(?: the| an?)?"
    rf"(?: (?:{'|'.join(_SEVERITIES)}))? (?:left|right)\b"
)
_REACH_BEFORE = 6
_REACH_AFTER = 8


def said_sides(words: Sequence[str]) -> list[str | None]:
    """Returns the side that each word says; "left and right" and "left greater than right" say bilateral."""
    sides = [_SIDES.get(word) for word in words]
    if "left" in sides and "right" in sides:
        text = " ".join(words)
        for match in _BOTH_SIDES.finditer(text):
            start = text.count(" ", 0, match.start())
            for position in range(start, start + match.group().count(" ") + 1):
                sides[position] = "bilateral" if sides[position] else None
    return sides


def said_severities(words: Sequence[str]) -> list[str | None]:
    """Returns the severity that each word says: mild, moderate, severe, or None."""
    return [_SEVERITIES.get(word) for word in words]


def modifier(
    said: Sequence[str | None], words: Sequence[str], span: Span, findings: Sequence[Span], *, after: bool
) -> str | None:
    """Returns what is said in the span, else nearest before it, else (``after``) behind it, up to the next finding."""
    for position in range(span.start, span.end):
        if said[position]:
            return said[position]
    low = max((other.end for other in findings if other.end <= span.start), default=0)
    if low and "and" in words[low : span.start] and span.start - low <= 2:
        low = 0  # "small left effusion and atelectasis" shares its modifiers
    for position in range(span.start - 1, max(low, span.start - _REACH_BEFORE) - 1, -1):
        if said[position]:
            return said[position]
    if not after:
        return None
    high = min((other.start for other in findings if other.start >= span.end), default=len(words))
    return next((said[i] for i in range(span.end, min(high, span.end + _REACH_AFTER)) if said[i]), None)


def inner_place(words: Sequence[str], span: Span) -> Term | None:
    """Returns the anatomy that a wording names ("rib fracture"), unless it is the one that is implied anyway.

    A term's own name says nothing beyond what it implies ("pulmonary edema").
    """
    if " ".join(words[span.start : span.end]) == span.term.name:
        return None
    for position in range(span.start, span.end):
        end = span.end - (position == span.start)  # the whole wording is the finding itself
        hit = load_ontology().longest(words[:end], position)
        if hit is not None and hit[1].kind == "anatomy" and hit[1].place and hit[1].name != span.term.anatomy:
            return hit[1]
    return None


def nearest_place(words: Sequence[str], span: Span, anatomies: Sequence[Span], findings: Sequence[Span]) -> Term | None:
    """Returns the nearest anatomy of the sentence that no other finding holds or stands before, or None.

    Behind the finding, the search ends with the clause: at a comma or "and".
    """
    others = [other for other in findings if other is not span]
    best: tuple[int, Term] | None = None
    for place in anatomies:
        low, high = sorted((place.start, span.start))
        if any(low < other.start < high or other.start <= place.start < other.end for other in others):
            continue
        if place.start >= span.end and {",", "and"} & set(words[span.end : place.start]):
            continue
        inside = span.start <= place.start and place.end <= span.end
        distance = 0 if inside else min(abs(place.start - span.end), abs(span.start - place.end))
        if distance <= _REACH_AFTER and (best is None or distance < best[0]):
            best = distance, place.term
    return best[1] if best else None
