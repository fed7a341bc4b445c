"""De-identification marks in a report: the most memorised parts of a corpus."""

from __future__ import annotations

import re

_MARKS = re.compile(r"\[\*\*.*?\*\*\]|\b[\w-]*X{3,}[\w-]*\b|_{2,}|\bX{2,}\b")
_SPACES = re.compile(r"\s+")


def strip_marks(text: str) -> str:
    """Returns ``text`` without its marks (``XXXX``, ``___``, ``[**...**]``), white space folded."""
    return _SPACES.sub(" ", _MARKS.sub(" ", text)).strip()
