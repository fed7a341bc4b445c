"""Mentions in a report: terms with negation, uncertainty, side, severity and the anatomy they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsynth_core.models.text import strip_marks
from medsynth_core.vocabulary.negation import scopes
from medsynth_core.vocabulary.ontology import Kind, Term, load_ontology
from medsynth_core.vocabulary.sentences import fold_words, split_sentences

_SIDES = {"left": "left", "right": "right", "bilateral": "bilateral", "bilaterally": "bilateral", "both": "bilateral",
          "bibasilar": "bilateral", "biapical": "bilateral", "bibasal": "bilateral"}  # fmt: skip
_SEVERITIES = {
    **dict.fromkeys(
        [
            "mild",
            "mildly",
            "minimal",
            "minimally",
            "small",
            "tiny",
            "slight",
            "slightly",
            "trace",
            "subtle",
            "minor",
            "borderline",
            "faint",
            "little",
        ],
        "mild",
    ),
    **dict.fromkeys(["moderate", "moderately"], "moderate"),
    **dict.fromkeys(
        [
            "severe",
            "severely",
            "large",
            "marked",
            "markedly",
            "extensive",
            "massive",
            "gross",
            "significant",
            "significantly",
            "advanced",
        ],
        "severe",
    ),
}
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
    """Returns the mentions of findings and impression text, in order."""
    mentions: list[Mention] = []
    for sentence in split_sentences(strip_marks(text)):
        mentions.extend(_mine_sentence(sentence))
    return mentions


def positive_findings(mentions: Sequence[Mention]) -> list[dict[str, str | None]]:
    """Returns the asserted pathologies, one item a (pathology, side), with keys pathology, anatomy, side, severity.

    A mention that names no side, or no severity or place, is completed by another of the same pathology.
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
        item["anatomy"] = item["anatomy"] or mention.anatomy
    sided = {term for term, side in found if side != "none"}
    return [item for (term, side), item in sorted(found.items()) if side != "none" or term not in sided]


@lru_cache(maxsize=20_000)
def _mine_sentence(sentence: str) -> tuple[Mention, ...]:
    ontology = load_ontology()
    words = fold_words(sentence)
    spans: list[_Span] = []
    position = 0
    while position < len(words):
        hit = ontology.longest(words, position)
        if hit is None:
            position += 1
        else:
            spans.append(_Span(position, hit[0], hit[1]))
            position = hit[0]
    spans = _with_patterns(words, spans)
    if not spans:
        return ()
    negated, uncertain = scopes(words)
    pathologies = [span for span in spans if span.term.kind == "pathology"]
    anatomies = [span for span in spans if span.term.kind == "anatomy"]
    mentions = []
    for span in spans:
        is_finding = span.term.kind == "pathology"
        mentions.append(
            Mention(
                span.term.name,
                span.term.kind,
                negated[span.start] if span.term.kind != "anatomy" else False,
                uncertain[span.start],
                _modifier(words, span, pathologies, _SIDES) or "none" if is_finding else "none",
                _modifier(words, span, pathologies, _SEVERITIES) if is_finding else None,
                _place(span, anatomies, pathologies) if is_finding else None,
                " ".join(words[span.start : span.end]),
            )
        )
    return tuple(mentions)


def _with_patterns(words: list[str], spans: list[_Span]) -> list[_Span]:
    """Adds findings said with words between; they take the place of what they cover."""
    ontology = load_ontology()
    text = " ".join(words)
    starts = {}
    offset = 0
    for index, word in enumerate(words):
        starts[offset] = index
        offset += len(word) + 1
    for pattern, term in ontology.patterns:
        for match in pattern.finditer(text):
            start = starts[match.start()]
            end = start + match.group().count(" ") + 1
            covering = [s for s in spans if s.start <= start and end <= s.end and s.term.kind == "pathology"]
            if covering:
                continue
            spans = [s for s in spans if s.end <= start or s.start >= end or s.term.kind == "anatomy"]
            spans.append(_Span(start, end, term))
    return sorted(spans, key=lambda span: (span.start, span.end))


def _modifier(words: list[str], span: _Span, findings: list[_Span], table: dict[str, str]) -> str | None:
    """Returns the modifier inside the span, else the nearest before it, else after it, up to the next finding."""
    for position in range(span.start, span.end):
        if words[position] in table:
            return table[words[position]]
    low = max((other.end for other in findings if other.end <= span.start), default=0)
    if low and "and" in words[low : span.start] and span.start - low <= 2:
        low = 0  # "small left effusion and atelectasis" shares its modifiers
    for position in range(span.start - 1, max(low, span.start - _REACH_BEFORE) - 1, -1):
        if words[position] in table:
            return table[words[position]]
    if table is _SEVERITIES:
        return None
    high = min((other.start for other in findings if other.start >= span.end), default=len(words))
    for position in range(span.end, min(high, span.end + _REACH_AFTER)):
        if words[position] in table:
            return table[words[position]]
    return None


def _place(span: _Span, anatomies: list[_Span], findings: list[_Span]) -> str | None:
    """Returns the nearest anatomy of the sentence with no other finding between; else the implied one."""
    best: tuple[int, str] | None = None
    for place in anatomies:
        low, high = sorted((place.start, span.start))
        if any(low < other.start < high for other in findings if other is not span):
            continue
        inside = span.start <= place.start and place.end <= span.end
        distance = 0 if inside else min(abs(place.start - span.end), abs(span.start - place.end))
        if distance <= _REACH_AFTER and (best is None or distance < best[0]):
            best = distance, place.term.name
    return best[1] if best else span.term.anatomy
