"""Does a prompt say what was asked for, and nothing else? Judged by the miner that reads real reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from medsynth_core.models.condition import RequestedFinding
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.vocabulary.mining import Mention, mine_report
from medsynth_core.vocabulary.ontology import load_ontology
from medsynth_core.vocabulary.phi import looks_private
from medsynth_core.vocabulary.sentences import split_sentences

MIN_WORDS, MAX_WORDS = 4, 90
_COMPARISON = re.compile(
    r"\b(?:compar(?:ed|ison)|prior|previous(?:ly)?|unchanged|interval|since|again|stable|new(?:ly)?|worsen(?:ed|ing)|"
    r"improv(?:ed|ing))\b",
    re.IGNORECASE,
)
_NO_FINDINGS_PROSE = re.compile(
    r"^\W*(?:findings?|impression|report|text)\s*:|[*#`|{}<>\[\]?!]|^\s*(?:-|\d+[.)])\s|"
    r"\b\d+(?:\.\d+)?\s*(?:cm|mm|%|year)|"
    r"\b(?:recommend\w*|advis\w+|follow[- ]?up|correlat\w+|patient\w*|year[- ]old|clinically|as an ai|sorry|i am|"
    r"i can\w*|synthetic|here (?:is|are)|certainly|request\w*|history|indication)\b",
    re.IGNORECASE | re.MULTILINE,
)
_ALL_NORMAL = re.compile(
    r"\bno (?:acute |active |significant )*(?:cardiopulmonary|cardiothoracic|intrathoracic|pulmonary|chest) "
    r"(?:abnormalit\w+|process\w*|disease|findings?)|\bno (?:acute )?(?:abnormalit\w+|findings?)\b|"
    r"\b(?:normal|unremarkable) (?:chest|study|examination|radiograph)|\b(?:chest|study) is (?:normal|unremarkable)",
    re.IGNORECASE,
)


def adherence_problem(text: str, request: PromptRequest) -> str | None:
    """Returns why a prompt can't be accepted, or None.

    The part before the first colon is the reason it is counted under: length, private, comparison, style, missing,
    side, severity, anatomy, unasked, contradiction.
    """
    problem = _prose_problem(text)
    if problem is not None:
        return problem
    mentions = mine_report(text)
    said = [m for m in mentions if m.kind == "pathology" and not m.negated]
    for asked in request.findings:
        named = [m for m in said if m.term == asked.pathology and m.asserted]
        problem = _finding_problem(asked, named)
        if problem is not None:
            return problem
    lineage = load_ontology().lineage
    allowed = {name for finding in request.findings for name in lineage(finding.pathology)}
    unasked = sorted({m.term for m in said} - allowed)
    unasked += sorted({m.term for m in mentions if m.kind == "device" and m.asserted})
    if unasked:
        return f"unasked: {', '.join(unasked)}"
    return _contradiction(text, mentions)


def _prose_problem(text: str) -> str | None:
    words = len(text.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"length: {words} words, expected {MIN_WORDS} to {MAX_WORDS}"
    private = looks_private(text)
    if private is not None:
        return f"private: {private!r} looks like a name, a date, an id or a de-identification mark"
    comparison = _COMPARISON.search(text)
    if comparison is not None:
        return f"comparison: {comparison.group()!r} compares with an earlier study"
    odd = _NO_FINDINGS_PROSE.search(text)
    if odd is not None:
        return f"style: {odd.group().strip()!r} is not in the prose of a findings section"
    if not text[:1].isupper() or not text.rstrip().endswith("."):
        return "style: not in whole sentences"
    said = Counter(sentence.casefold() for sentence in split_sentences(text))
    sentence, times = said.most_common(1)[0]
    return f"style: {sentence!r} is said {times} times" if times > 1 else None


def _finding_problem(asked: RequestedFinding, named: Sequence[Mention]) -> str | None:
    """Returns what is wrong with how a requested finding is said, or None.

    Args:
        asked: the request.
        named: asserted mentions of its pathology.
    """
    if not named:
        return f"missing: {asked.pathology} is not asserted"
    sides = {m.side for m in named}
    if sides - {"none", asked.side} or asked.side not in sides:
        return f"side: {asked.pathology} should be {asked.side}, found {', '.join(sorted(sides))}"
    severities = {m.severity for m in named}
    if severities - {None, asked.severity} or asked.severity not in severities:
        found = ", ".join(sorted(s or "none" for s in severities))
        return f"severity: {asked.pathology} should be {asked.severity or 'of no severity'}, found {found}"
    places = {m.anatomy for m in named}
    if asked.anatomy is not None and asked.anatomy not in places:
        return f"anatomy: {asked.pathology} should be in {asked.anatomy}"
    elsewhere = sorted(str(place) for place in places if not _is_same_place(place, asked.anatomy))
    if elsewhere:
        return f"anatomy: {asked.pathology} should be in {asked.anatomy}, found {', '.join(elsewhere)}"
    return None


def _contradiction(text: str, mentions: Sequence[Mention]) -> str | None:
    """Returns what a text says twice in opposite ways, or None."""
    ontology = load_ontology()
    asserted = [m for m in mentions if m.kind == "pathology" and m.asserted]
    for finding in asserted:
        affected = ontology.affected(finding.term, finding.anatomy, finding.severity)
        for other in mentions:
            if not _share_a_side(finding, other):
                continue
            if other.kind == "pathology" and other.negated and other.term in ontology.shows(finding.term):
                if _would_show_there(finding, other):
                    return f"contradiction: {finding.term} is asserted and {other.term} denied"
            elif other.normal and affected & ontology.called_normal(other.term):
                return f"contradiction: {other.term} is called normal, but {finding.term} lies in it or affects it"
    everything = _ALL_NORMAL.search(text)
    if asserted and everything is not None:
        return f"contradiction: {everything.group()!r} beside {asserted[0].term}"
    return None


def _would_show_there(finding: Mention, denied: Mention) -> bool:
    """Returns whether a finding would show as what is denied where that is denied: in its own place, or in the usual
    one of the other (an effusion in the lungs) where it is in its own usual one (and not a metastasis in a rib)."""
    if _is_same_place(finding.anatomy, denied.anatomy):
        return True
    usual_place = load_ontology().usual_place
    usual = usual_place(finding.term)
    return denied.anatomy == usual_place(denied.term) and usual is not None and _is_same_place(finding.anatomy, usual)


def _share_a_side(first: Mention, second: Mention) -> bool:
    return first.side == second.side or {first.side, second.side} != {"left", "right"}


def _is_same_place(first: str | None, second: str | None) -> bool:
    """Returns whether a place is the other, or a part of it; no place at all is any."""
    lineage = load_ontology().lineage
    return first is None or second is None or first in lineage(second) or second in lineage(first)
