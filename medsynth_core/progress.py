"""How long work tells its caller where it is; the core prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the work done so far, its total and a short detail (a loss, a count)."""

    def __call__(self, done: int, total: int, detail: str = "") -> None: ...


def silent(done: int, total: int, detail: str = "") -> None:
    """Drops every report."""
