"""Sections of a free-text report: what was seen and concluded is kept, what was asked and compared is not."""

from __future__ import annotations

import re

_KEPT_FINDINGS = ("findings", "finding", "report", "observations", "chest", "chest x-ray", "chest radiograph")
_KEPT_IMPRESSION = ("impression", "impressions", "conclusion", "conclusions", "summary", "opinion")
_DROPPED = (
    "history", "clinical history", "clinical information", "clinical indication", "indication", "indications",
    "reason for exam", "reason for examination", "reason for study", "comparison", "comparisons", "technique",
    "examination", "exam", "procedure", "study", "views", "recommendation", "recommendations", "notification",
    "wet read", "final report", "addendum", "electronically signed by", "dictated by",
)  # fmt: skip
_NAMES = sorted((*_KEPT_FINDINGS, *_KEPT_IMPRESSION, *_DROPPED), key=len, reverse=True)
_HEADING = re.compile(
    r"(?:^|(?<=[\n.;]))[ \t]*(" + "|".join(re.escape(name) for name in _NAMES) + r")[ \t]*:[ \t]*",
    re.IGNORECASE,
)


def parse_sections(text: str) -> tuple[str, str]:
    """Returns (findings, impression) of a report; a text without headings is all findings.

    Text before the first heading is dropped (it names the examination), as are history, indication,
    comparison and technique. White space is folded.
    """
    headings = list(_HEADING.finditer(text))
    if not headings:
        return _fold(text), ""
    kept: dict[str, list[str]] = {"findings": [], "impression": []}
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        name = heading.group(1).lower()
        body = _fold(text[heading.end() : end])
        if name in _KEPT_FINDINGS:
            kept["findings"].append(body)
        elif name in _KEPT_IMPRESSION:
            kept["impression"].append(body)
    return _fold(" ".join(kept["findings"])), _fold(" ".join(kept["impression"]))


def _fold(text: str) -> str:
    return " ".join(text.split())
