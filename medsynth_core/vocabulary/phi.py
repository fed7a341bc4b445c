"""What must never enter a vocabulary: names, dates, ids and de-identification marks (contract C8)."""

from __future__ import annotations

import re

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"X{2,}|_{2,}|\[\*\*",
        r"\b(?:Dr|Mr|Mrs|Ms|Prof)\.?\s+[A-Z]\w*",
        r"\b\d{1,4}[/-]\d{1,2}[/-]\d{1,4}\b",
        r"\b(?:January|February|March|April|June|July|August|September|October|November|December)\s+\d",
        r"\b(?:MRN|SSN|DOB|accession)\b",
        r"\b\d{5,}\b",
        r"\b\d{1,2}:\d{2}\b",
        r"[\w.+-]+@[\w-]+\.\w+",
    )
)


def looks_private(text: str) -> str | None:
    """Returns the part of ``text`` that looks like a name, a date, an id or a de-identification mark, or None."""
    for pattern in _PATTERNS:
        match = pattern.search(text)
        if match:
            return match.group()
    return None


def without_private(text: str) -> str:
    """Returns ``text`` with ``___`` for whatever looks private."""
    for pattern in _PATTERNS:
        text = pattern.sub("___", text)
    return text
