"""Where in a sentence a term stands: wordings of the ontology, findings said with words between, unlisted findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medsynth_core.vocabulary.ontology import Term, fold, load_ontology

_UNLISTED = re.compile(
    r"(?:[A-Z]|[a-z])[a-z]{2,}(?:itis|osis|ectasis|megaly|opathy|plasia|malacia|thorax|noma|toma|cele|ptysis|emia)"
)
"""Endings that name a disorder, in a word that is not all capitals."""
_NO_FINDINGS = frozenset(
    [
        "diagnosis", "prognosis", "thorax", "hemithorax", "enosis", "stigmata", "automata", "anemia", "academia",
        "pneumonia", "appendicitis", "cholangitis", "cholecystitis", "colitis", "cystitis", "dermatitis",
        "diverticulitis", "encephalitis", "enteritis", "gastritis", "gastroenteritis", "hepatitis", "meningitis",
        "nephritis", "pancreatitis", "pharyngitis", "prostatitis", "pyelonephritis", "sinusitis", "tonsillitis",
    ]
)  # fmt: skip
"""Words that end so and name no disorder, or one that isn't the chest's."""
_MAX_DESCRIPTORS = 2
_RATIO = frozenset(["ctr", "cardiothoracic"])
_BEFORE_RATIO = frozenset(
    [
        "is", "was", "of", "at", "about", "approximately", "around", "measure", "measuring", "estimated", "calculated",
        "the", ":", "(", "greater", "less", "more", "than", "above", "over", "exceed", "again", "now", "remain",
    ]
)  # fmt: skip
_MAX_RATIO = 0.5
"""Of the widths of a heart of normal size and of its chest."""
_VERBS = frozenset(["is", "are", "was", "were", "appear", "remain"])
_REACH = 5
_ENDS = frozenset([",", "and", "with", ":", "(", "or"])


@dataclass(frozen=True)
class Span:
    """A term at words [start, end); ``described`` is where the descriptors before it begin.

    ``literal`` is false of a pattern's span, which may hold any word between.
    """

    start: int
    end: int
    term: Term
    described: int
    literal: bool = True


def find_spans(tokens: Sequence[str], words: Sequence[str]) -> list[Span]:
    """Returns the terms of a sentence in order: longest wordings first, then patterns, then unlisted findings.

    Args:
        tokens: the words as written.
        words: the same, folded.
    """
    ontology = load_ontology()
    spans: list[Span] = []
    position = 0
    while position < len(words):
        hit = ontology.longest(words, position)
        if hit is None:
            term = _unlisted(tokens[position])
            if term is not None:
                spans.append(Span(position, position + 1, term, position))
            position += 1
        else:
            end, term = hit
            described = _described(words, position) if term.kind == "pathology" else position
            spans.append(Span(position, end, term, described))
            position = end
    for start, end, term in ontology.patterns.find(words):
        spans = _with_pattern(spans, Span(start, end, term, start, literal=False))
    if not _RATIO.isdisjoint(words):
        spans += _large_ratios(words)
    spans = [span for span in spans if span.term.kind != "pathology" or not _elsewhere(words, span)]
    return sorted(spans, key=lambda span: (span.start, span.end))


def _large_ratios(words: Sequence[str]) -> list[Span]:
    """Returns the ratios of heart to chest that are too large: as a fraction, in hundredths or as two widths."""
    found = []
    for position, word in enumerate(words):
        if word == "ctr" or (word == "cardiothoracic" and words[position + 1 : position + 2] == ["ratio"]):
            start = position + (1 if word == "ctr" else 2)
            end = next((i for i in range(start, len(words)) if words[i] not in _BEFORE_RATIO), len(words))
            ratio, width = _number(words, end), _number(words, end + 1)
            ratio /= width if width > ratio else 100 if ratio > 1 else 1
            least = _MAX_RATIO - 0.001 * (words[end - 1] == "than")  # "greater than 0.5"
            if least < ratio < 1 and "less" not in words[start:end]:
                found.append(Span(position, end + 1, load_ontology().terms["cardiomegaly"], position, literal=False))
    return found


def _number(words: Sequence[str], position: int) -> float:
    """Returns the number at a word, 0 where there is none."""
    return float(words[position]) if position < len(words) and words[position][0].isdigit() else 0.0


def _elsewhere(words: Sequence[str], span: Span) -> bool:
    """Returns whether a finding is said of an organ that isn't the chest's: the one right before it ("ankle edema",
    unless the wording itself names it), or the one that it is "in", "of" or "within"."""
    if span.term.anywhere:
        return False
    organs = load_ontology().elsewhere
    if ":" in words[1:3] and any(tuple(words[:n]) in organs for n in (1, 2)):  # "Knee: joint effusion"
        return True
    start = span.described
    while start > 0 and words[start - 1] in _VERBS:
        start -= 1
    if any(tuple(words[start - n : start]) in organs for n in (1, 2) if start >= n):
        return True
    if words[span.end : span.end + 1] not in (["in"], ["of"], ["within"], ["at"], ["involving"]):
        return False
    after = list(words[span.end + 1 : span.end + 1 + _REACH])
    after = after[: next((i for i, word in enumerate(after) if word in _ENDS), len(after))]
    return any(tuple(after[i : i + n]) in organs for i in range(len(after)) for n in (1, 2))


def _unlisted(token: str) -> Term | None:
    """Returns a finding that the ontology doesn't list, known by its ending, or None."""
    if not _UNLISTED.fullmatch(token):
        return None
    name = fold(token)
    return None if name in _NO_FINDINGS else Term(name, "pathology", listed=False)


def _described(words: Sequence[str], start: int) -> int:
    """Returns where the descriptors right before ``start`` begin ("patchy ground glass | opacity")."""
    descriptors = load_ontology().descriptors
    for _ in range(_MAX_DESCRIPTORS):
        length = next((n for n in (2, 1) if start >= n and tuple(words[start - n : start]) in descriptors), 0)
        if not length:
            break
        start -= length
    return start


def _with_pattern(spans: list[Span], found: Span) -> list[Span]:
    """Adds a pattern's span; it takes the place of findings at its ends, not of those inside, of anatomy or of what
    another pattern found ("the aorta is calcified and tortuous")."""
    findings = [span for span in spans if span.term.kind != "anatomy" and (span.literal or span.term is found.term)]
    if any(span.start <= found.start and found.end <= span.end for span in findings):
        return spans
    replaced = {span for span in findings if span.start <= found.start < span.end or span.start < found.end <= span.end}
    return [span for span in spans if span not in replaced] + [found]
