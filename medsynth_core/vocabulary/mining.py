"""Mentions in a report: terms with negation, uncertainty, side, severity and the anatomy they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medsynth_core.corpus.language import other_language
from medsynth_core.corpus.marks import strip_marks
from medsynth_core.vocabulary.context import begins_anew, explained_away, is_given, is_over
from medsynth_core.vocabulary.modifiers import (
    carried_side,
    distributed,
    inner_place,
    modifier,
    nearest_place,
    predicate,
    present_severity,
    said_severities,
    said_sides,
)
from medsynth_core.vocabulary.negation import scopes
from medsynth_core.vocabulary.normality import normal_words
from medsynth_core.vocabulary.ontology import Kind, load_ontology
from medsynth_core.vocabulary.sentences import fold_words, spell_out, split_sentences, split_words
from medsynth_core.vocabulary.spans import Span, find_spans

_ASKING = frozenset(
    ["rule out", "evaluate for", "evaluation for", "assess for", "check for", "question of", "query", "look for"]
)
_STATUSES = ("absent", "uncertain", "present")
"""The later outranks."""
_DENIES = re.compile(
    r"(?:[^.:]{0,40}\b)?(?:no|no evidence of|negative for|without|absence of|free of|no signs? of)\s*:\s*$",
    re.IGNORECASE,
)
_ITEM = re.compile(r"\s*(?:[*>+-]|\(?\d{1,2}[.)]|[a-z][.)])\s+")
"""Of a list that its heading denies: "No evidence of:", then an item a line."""
_YES_NO = re.compile(r"\?\s*:?\s*([YN])\b(?!/)(?:\s*-\s*([RL])\b)?")
"""An answer of a form: "Effusion? Y - R"."""
_ATTRIBUTE = re.compile(
    r"\s*\n\s*(?=(?:severity|distribution|location|size|side|grade|extent|laterality)\s*:)", re.IGNORECASE
)
"""Where a form goes on with what it said on the line before."""


REPORT = "report"
"""Where a mention comes from that a report makes."""


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
        wording: the folded words that were matched; of an unlisted finding the word as written, "" of a pattern's.
        variant: descriptors and term ("ground glass opacity"), or None without descriptors.
        normal: of an anatomy: said to be normal.
        listed: whether the ontology has the term.
        rule: the words that say that it is absent or uncertain; "" where it is asserted.
        origin: who says so.
    """

    term: str
    kind: Kind
    negated: bool
    uncertain: bool
    side: str = "none"
    severity: str | None = None
    anatomy: str | None = None
    wording: str = ""
    variant: str | None = None
    normal: bool = False
    listed: bool = True
    rule: str = ""
    origin: str = REPORT

    @property
    def asserted(self) -> bool:
        """True when the report says that it is there."""
        return not (self.negated or self.uncertain)

    @property
    def status(self) -> str:
        """What the report says of it: present, uncertain or absent."""
        return "present" if self.asserted else "absent" if self.negated else "uncertain"


Mined = tuple[str, tuple[Mention, ...]]
"""A sentence and its mentions."""


def mine_report(text: str) -> list[Mention]:
    """Returns the mentions of findings and impression text, in order; a line break ends a sentence. A text in another
    language than English has none. What a report only asks isn't mentioned once it is answered ("rule out edema. No
    edema.")."""
    if other_language(text) is not None:
        return []
    return [mention for _, found in without_answered(mine_sentences(text)) for mention in found]


def without_answered(sentences: Iterable[Mined]) -> list[Mined]:
    """Returns the sentences of a report without mentions that only ask for what the report answers."""
    known = list(sentences)
    if not any(mention.rule in _ASKING for _, found in known for mention in found):
        return known
    answered = {mention.term for _, found in known for mention in found if not mention.uncertain}
    return [
        (sentence, tuple(each for each in found if each.rule not in _ASKING or each.term not in answered))
        for sentence, found in known
    ]


def mine_sentences(text: str) -> Iterator[Mined]:
    """Yields the sentences of an English text, each with its mentions."""
    denied = ""
    for line in _ATTRIBUTE.sub(", ", text).splitlines():
        if _DENIES.match(line):
            denied = line.rstrip(": ")
        elif denied and (item := _ITEM.match(line)):
            line = f"{denied} {line[item.end() :]}"
        else:
            denied = ""
        if "?" in line:
            line = _YES_NO.sub(_answer_in_words, line)
        for sentence in split_sentences(strip_marks(line)):
            yield sentence, _mine_sentence(sentence)


def _answer_in_words(found: re.Match[str]) -> str:
    side = {"R": " right", "L": " left", None: ""}[found[2]]
    return f": {'present' if found[1] == 'Y' else 'absent'}{side}; "


def positive_findings(mentions: Sequence[Mention]) -> list[dict[str, str | None]]:
    """Returns the asserted pathologies, one item a (pathology, side), with keys pathology, anatomy, side, severity.

    Mentions of one pathology complete each other: one without a side adds its severity and place to those with
    one, and one of both sides takes in those of a single side, or is taken in where these differ in severity.
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
    for term in {term for term, side in found if side == "bilateral"}:
        each = [found[term, side] for side in ("left", "right") if (term, side) in found]
        if len(each) > 1 and each[0]["severity"] != each[1]["severity"]:
            both = found.pop((term, "bilateral"))
            for one in each:
                one["severity"] = one["severity"] or both["severity"]
                one["anatomy"] = _narrower(one["anatomy"], both["anatomy"])
    for term, side in sorted(found):
        into = [found[term, other] for other in _wider(side) if (term, other) in found]
        if into:
            item = found.pop((term, side))
            for other in into:
                other["severity"] = other["severity"] or item["severity"]
                other["anatomy"] = _narrower(other["anatomy"], item["anatomy"])
    return [item for _, item in sorted(found.items())]


def statuses(mentions: Sequence[Mention]) -> list[dict[str, str]]:
    """Returns what is said of each pathology that is mentioned, by name: present if it is asserted anywhere, else
    uncertain if it is hedged, else absent, and who says so; items with keys pathology, status, origin."""
    said: dict[str, Mention] = {}
    for mention in mentions:
        if mention.kind == "pathology":
            said[mention.term] = max(
                said.get(mention.term, mention), mention, key=lambda each: _STATUSES.index(each.status)
            )
    return [{"pathology": name, "status": each.status, "origin": each.origin} for name, each in sorted(said.items())]


def _wider(side: str) -> tuple[str, ...]:
    """Returns the sides that take in a finding of ``side``."""
    return {"left": ("bilateral",), "right": ("bilateral",), "none": ("left", "right", "bilateral")}.get(side, ())


def _narrower(first: str | None, second: str | None) -> str | None:
    """Returns the first place, or the second when it is a part of the first."""
    if first is None or second is None:
        return first or second
    return second if first in load_ontology().lineage(second)[1:] else first


@lru_cache(maxsize=4_000)
def _mine_sentence(sentence: str) -> tuple[Mention, ...]:
    tokens = split_words(spell_out(sentence))
    words = fold_words(tokens)
    spans = find_spans(tokens, words)
    if not spans:
        return ()
    negated, uncertain = scopes(words, begins_anew(words, spans), explained_away(words))
    normal = normal_words(words)
    pathologies = [span for span in spans if span.term.kind == "pathology"]
    sides, severities = said_sides(words, pathologies), said_severities(words)
    anatomies = [span for span in spans if span.term.kind == "anatomy"]
    mentions = []
    for span in spans:
        if span.term.kind == "pathology":
            place, side = None, None
            if not span.term.whole:
                fitting = [a for a in anatomies if load_ontology().may_be_in(span.term, a.term.name)]
                nearest = nearest_place(words, span, fitting, pathologies)
                place = inner_place(words, span) or (nearest.term if nearest else None)
                side = modifier(sides, words, span, pathologies, after=True) or (place.side if place else None)
                side = side or carried_side(sides, words, span, nearest)
            anatomy = place.name if place else span.term.anatomy
            if anatomy is not None and not load_ontology().terms[anatomy].paired:
                side = None
            described = words[span.described : span.start]
            severity = None
            if span.term.graded:
                severity = present_severity(words, span, pathologies)
                severity = severity or modifier(severities, words, span, pathologies, after=False)
                severity = severity or predicate(severities, words, span, pathologies)
            ruled = next(filter(None, negated[span.start : span.end]), "")
            hedged = next(filter(None, uncertain[span.start : span.end]), "")
            if (ruled or hedged) and is_given(words, span, spans):
                ruled = hedged = ""
            hedged = hedged or is_over(words, span, spans)
            parts: list[tuple[str, str | None]] = (
                [*distributed(words, span)] if span.term.graded and not span.term.whole else []
            )
            mentions += [
                Mention(
                    span.term.refined.get(anatomy or "", span.term.name),
                    "pathology",
                    bool(ruled),
                    bool(hedged),
                    each_side,
                    each_severity,
                    anatomy,
                    _wording(tokens, words, span),
                    " ".join([*described, span.term.name]) if described else None,
                    listed=span.term.listed,
                    rule=ruled or hedged,
                )
                for each_side, each_severity in parts or [(side or "none", severity)]
            ]
        elif span.term.kind == "anatomy":
            side = span.term.side or next((s for s in sides[max(0, span.start - 2) : span.end] if s), None)
            mentions.append(
                Mention(
                    span.term.name,
                    "anatomy",
                    False,
                    bool(uncertain[span.start]),
                    side or "none",
                    wording=_wording(tokens, words, span),
                    normal=normal[span.start],
                )
            )
        elif span.term.kind == "device":
            mentions.append(
                Mention(
                    span.term.name,
                    "device",
                    bool(negated[span.start]),
                    bool(uncertain[span.start]),
                    wording=_wording(tokens, words, span),
                )
            )
    return tuple(mentions)


def _wording(tokens: Sequence[str], words: Sequence[str], span: Span) -> str:
    if not span.literal:
        return ""
    return " ".join(words[span.start : span.end]) if span.term.listed else tokens[span.start]
