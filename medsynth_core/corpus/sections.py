"""Sections of a free-text report: what was seen and concluded is kept, what was asked and compared is not."""

from __future__ import annotations

import re

_KEPT_FINDINGS = (
    "findings", "finding", "report", "observations", "interpretation", "chest", "chest x-ray", "chest radiograph",
    "findings and impression", "findings/impression", "findings & impression", "impression and findings",
)  # fmt: skip
_KEPT_IMPRESSION = ("impression", "impressions", "conclusion", "conclusions", "summary", "opinion")
_DROPPED = (
    "history", "clinical history", "clinical information", "clinical indication", "clinical data", "clinical details",
    "history of present illness", "past medical history", "indication", "indications", "indication for study", "reason",
    "reason for exam", "reason for examination", "reason for study", "reason for this examination", "comparison",
    "comparisons", "comparison study", "comparison exam", "technique", "examination", "exam", "procedure", "study",
    "views", "recommendation", "recommendations", "notification", "communication", "wet read", "final report",
    "addendum", "attending", "signed by", "electronically signed by", "dictated by", "transcribed by", "patient name",
    "name", "mrn", "medical condition", "underlying medical condition",
)  # fmt: skip
_NAMES = sorted((*_KEPT_FINDINGS, *_KEPT_IMPRESSION, *_DROPPED), key=len, reverse=True)
_NAME = "|".join(re.escape(name) for name in _NAMES)
_HEADING = re.compile(
    rf"(?:^|(?<=[\n.;]))[ \t]*(?:({_NAME})[ \t]*:"  # a known heading
    r"|(chest\b[^:.\n]{0,40}|(?:portable|frontal|ap|pa)\b[^:.\n]{0,40}\bchest\b[^:.\n]{0,30}):)[ \t]*",  # the views
    re.IGNORECASE,
)
_BARE = re.compile(rf"^[ \t]*({_NAME})[ \t]*$", re.IGNORECASE | re.MULTILINE)
"""A heading without a colon, alone on its line; counted when it is in capitals."""


def parse_sections(text: str) -> tuple[str, str]:
    """Returns (findings, impression) of a report; a text without headings is all findings.

    Text before the first heading is dropped (it names the examination), as are history, indication,
    comparison and technique. White space is folded.
    """
    text = _BARE.sub(lambda bare: f"{bare.group(1)}:" if bare.group(1).isupper() else bare.group(), text)
    headings = list(_HEADING.finditer(text))
    if not headings:
        return _fold(text), ""
    kept: dict[str, list[str]] = {"findings": [], "impression": []}
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        name = (heading.group(1) or "chest").lower()
        body = _fold(text[heading.end() : end])
        if name in _KEPT_FINDINGS:
            kept["findings"].append(body)
        elif name in _KEPT_IMPRESSION:
            kept["impression"].append(body)
    return _fold(" ".join(kept["findings"])), _fold(" ".join(kept["impression"]))


def _fold(text: str) -> str:
    return " ".join(text.split())
