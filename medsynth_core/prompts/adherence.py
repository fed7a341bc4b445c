"""Does a prompt say what was asked for, and nothing else? Judged by the miner that reads real reports."""

from __future__ import annotations

import re

from medsynth_core.prompts.records import PromptRequest
from medsynth_core.vocabulary.mining import mine_report
from medsynth_core.vocabulary.phi import looks_private

MIN_WORDS, MAX_WORDS = 4, 90
_COMPARISON = re.compile(
    r"\b(?:compar(?:ed|ison)|prior|previous(?:ly)?|unchanged|interval|since|again|stable|new(?:ly)?|worsen(?:ed|ing)|"
    r"improv(?:ed|ing))\b",
    re.IGNORECASE,
)


def adherence_problem(text: str, request: PromptRequest) -> str | None:
    """Returns why a prompt can't be accepted, or None.

    The part before the first colon is the reason it is counted under: length, private, comparison, missing,
    side, anatomy, unasked.
    """
    words = len(text.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"length: {words} words, expected {MIN_WORDS} to {MAX_WORDS}"
    private = looks_private(text)
    if private is not None:
        return f"private: {private!r} looks like a name, a date, an id or a de-identification mark"
    comparison = _COMPARISON.search(text)
    if comparison is not None:
        return f"comparison: {comparison.group()!r} compares with an earlier study"
    said = [m for m in mine_report(text) if m.kind == "pathology" and not m.negated]
    for asked in request.findings:
        named = [m for m in said if m.term == asked.pathology and m.asserted]
        if not named:
            return f"missing: {asked.pathology} is not asserted"
        sides = {m.side for m in named}
        if sides - {"none"} - {asked.side} or (asked.side not in sides):
            return f"side: {asked.pathology} should be {asked.side}, found {', '.join(sorted(sides))}"
        if asked.anatomy is not None and asked.anatomy not in {m.anatomy for m in named}:
            return f"anatomy: {asked.pathology} should be in {asked.anatomy}"
    unasked = sorted({m.term for m in said} - {f.pathology for f in request.findings})
    if unasked:
        return f"unasked: {', '.join(unasked)}"
    return None


def fold_text(text: str) -> str:
    """Returns the words of a prompt alone, so that two prompts that differ in punctuation are the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
