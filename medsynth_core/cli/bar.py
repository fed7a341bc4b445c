"""A progress bar for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medsynth_core.progress import Progress as Report


@contextmanager
def bar(name: str) -> Iterator[Report]:
    """Yields a progress callback; the bar goes to standard error and only to a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        row = shown.add_task(name, total=None, detail="")

        def report(done: int, total: int, detail: str = "") -> None:
            shown.update(row, completed=done, total=total, detail=detail)

        yield report
