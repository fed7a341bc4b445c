"""Mentions in a report: terms with negation, uncertainty, side, severity and the anatomy they belong to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsynth_core.models.text import strip_marks
from medsynth_core.vocabulary.negation import scopes
from medsynth_core.vocabulary.ontology import Kind, Term, load_ontology
from medsynth_core.vocabulary.sentences import fold_words, split_sentences

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


@dataclass(frozen=True)
class Mention:
    """One term in one sentence.

    Attributes:
        term: canonical name.
        kind: anatomy, pathology or device.
        negated: said to be absent (or, for a pathology, resolved).
        uncertain: said to be possible only.
        side: left, right, bilateral or none; the patient's.
        severity: mild, moderate, severe, or None.
        anatomy: of a pathology: named in the sentence, else implied by the ontology, else None.
        wording: the folded words that were matched.
    """

    term: str
    kind: Kind
    negated: bool
    uncertain: bool
    side: str = "none"
    severity: str | None = None
    anatomy: str | None = None
    wording: str = ""

    @property
    def asserted(self) -> bool:
        """True when the report says that it is there."""
        return not (self.negated or self.uncertain)


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    term: Term


def mine_report(text: str) -> list[Mention]:
    """Returns the mentions of findings and impression text, in order; a line break ends a sentence."""
    mentions: list[Mention] = []
    for line in text.splitlines():
        for sentence in split_sentences(strip_marks(line)):
            mentions.extend(_mine_sentence(sentence))
    return mentions


def positive_findings(mentions: Sequence[Mention]) -> list[dict[str, str | None]]:
    """Returns the asserted pathologies, one item a (pathology, side), with keys pathology, anatomy, side, severity.

    Mentions of one pathology complete each other: one without a side adds its severity and place to those with
    one, and one of both sides takes in those of a single side.
    """
    found: dict[tuple[str, str], dict[str, str | None]] = {}
    for mention in mentions:
        if mention.kind != "pathology" or not mention.asserted:
            continue
        item = found.setdefault(
            (mention.term, mention.side),
            {"pathology": mention.term, "anatomy": None, "side": mention.side, "severity": None},
        )
        item["severity"] = item["severity"] or mention.severity
        item["anatomy"] = _narrower(item["anatomy"], mention.anatomy)
    for term, side in sorted(found):
        into = [found[term, other] for other in _wider(side) if (term, other) in found]
        if into:
            item = found.pop((term, side))
            for other in into:
                other["severity"] = other["severity"] or item["severity"]
                other["anatomy"] = _narrower(other["anatomy"], item["anatomy"])
    return [item for _, item in sorted(found.items())]


def _wider(side: str) -> tuple[str, ...]:
    """Returns the sides that take in a finding of ``side``."""
    return {"left": ("bilateral",), "right": ("bilateral",), "none": ("left", "right", "bilateral")}.get(side, ())


def _narrower(first: str | None, second: str | None) -> str | None:
    """Returns the first place, or the second when it is a part of the first."""
    if first is None or second is None:
        return first or second
    term = load_ontology().terms.get(second)
    return second if term is not None and term.parent == first else first


@lru_cache(maxsize=20_000)
def _mine_sentence(sentence: str) -> tuple[Mention, ...]:
    words = fold_words(sentence)
    spans = _spans(words)
    if not spans:
        return ()
    negated, uncertain = scopes(words)
    sides, severities = _side_words(words), [_SEVERITIES.get(word) for word in words]
    pathologies = [span for span in spans if span.term.kind == "pathology"]
    anatomies = [span for span in spans if span.term.kind == "anatomy"]
    mentions = []
    for span in spans:
        wording = " ".join(words[span.start : span.end])
        if span.term.kind == "pathology":
            place = _inner_place(words, span) or _place(words, span, anatomies, pathologies)
            anatomy = place.name if place else span.term.anatomy
            side = _modifier(sides, words, span, pathologies, after=True) or (place.side if place else None)
            mentions.append(
                Mention(
                    span.term.refined.get(anatomy or "", span.term.name),
                    "pathology",
                    any(negated[span.start : span.end]),
                    any(uncertain[span.start : span.end]),
                    side or "none",
                    _modifier(severities, words, span, pathologies, after=False),
                    anatomy,
                    wording,
                )
            )
        elif span.term.kind != "other":
            denied = span.term.kind == "device" and negated[span.start]
            mentions.append(Mention(span.term.name, span.term.kind, denied, uncertain[span.start], wording=wording))
    return tuple(mentions)


def _spans(words: list[str]) -> list[_Span]:
    """Returns the terms in the words: longest wordings, then findings said with words between."""
    ontology = load_ontology()
    spans: list[_Span] = []
    position = 0
    while position < len(words):
        hit = ontology.longest(words, position)
        if hit is None:
            position += 1
        else:
            spans.append(_Span(position, hit[0], hit[1]))
            position = hit[0]
    text = " ".join(words)
    for pattern, term in ontology.patterns:
        for match in pattern.finditer(text):
            start = text.count(" ", 0, match.start())
            end = start + match.group().count(" ") + 1
            spans = _with_pattern(spans, _Span(start, end, term))
    return sorted(spans, key=lambda span: (span.start, span.end))


def _with_pattern(spans: list[_Span], found: _Span) -> list[_Span]:
    """Adds a pattern's span; it takes the place of findings at its ends, not of those inside or of anatomy."""
    findings = [span for span in spans if span.term.kind != "anatomy"]
    if any(span.start <= found.start and found.end <= span.end for span in findings):
        return spans
    replaced = {span for span in findings if span.start <= found.start < span.end or span.start < found.end <= span.end}
    return [span for span in spans if span not in replaced] + [found]


def _side_words(words: list[str]) -> list[str | None]:
    """Returns the side that each word says; "left and right" and "left greater than right" say bilateral."""
    sides = [_SIDES.get(word) for word in words]
    if "left" in sides and "right" in sides:
        text = " ".join(words)
        for match in _BOTH_SIDES.finditer(text):
            start = text.count(" ", 0, match.start())
            for position in range(start, start + match.group().count(" ") + 1):
                sides[position] = "bilateral" if sides[position] else None
    return sides


def _modifier(said: list[str | None], words: list[str], span: _Span, findings: list[_Span], after: bool) -> str | None:
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


def _inner_place(words: list[str], span: _Span) -> Term | None:
    """Returns the anatomy that a wording names ("rib fracture"), unless it is the one that is implied anyway."""
    for position in range(span.start, span.end):
        end = span.end - (position == span.start)  # the whole wording is the finding itself
        hit = load_ontology().longest(words[:end], position)
        if hit is not None and hit[1].kind == "anatomy" and hit[1].name != span.term.anatomy:
            return hit[1]
    return None


def _place(words: list[str], span: _Span, anatomies: list[_Span], findings: list[_Span]) -> Term | None:
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
