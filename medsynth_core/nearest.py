"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.0) -> str:
    """Returns ``; did you mean 'that one'?`` to be put behind an error, or an empty text when nothing is near.

    Args:
        cutoff: how alike names must be at least, 0..1.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
