"""Progress of a task: a bar on a terminal, a line in the log, an artifact in the UI, a metric."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.theme import Theme

from medsynth_core.progress import Progress as Report
from tasks import metrics
from tasks.artifacts import begin_progress

_SECONDS_BETWEEN_UPDATES = 5.0


class Pace:
    """How fast images come, how many are accepted, and how long the rest will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._requested = self._accepted = 0

    def add(self, requested: int, accepted: int) -> None:
        """Notes a shard that was made."""
        self._requested += requested
        self._accepted += accepted

    def __str__(self) -> str:
        if not self._requested:
            return ""
        rate = self._requested / max(time.monotonic() - self._began, 1e-9)
        return f"{rate:.2g} images/s, {self._accepted / self._requested:.0%} accepted"


@contextmanager
def shown(root: str, stage: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> Iterator[Report]:
    """Yields a progress callback that shows a stage's progress to a person at the terminal and in the UI."""
    artifact = begin_progress(root, stage)
    console = _console()
    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
    )
    last = time.monotonic()
    first: tuple[float, int] | None = None
    with console.use_theme(Theme()), bar:  # Prefect's console has no styles but its own
        row = bar.add_task(stage, total=None, detail="")

        def report(done: int, total: int, detail: str = "") -> None:
            nonlocal last, first
            first = first or (time.monotonic(), done)
            bar.update(row, completed=done, total=total, detail=detail)
            if time.monotonic() - last >= _SECONDS_BETWEEN_UPDATES:
                last = time.monotonic()
                share = done / max(1, total)
                metrics.stage_done(stage, share)
                about = f"{stage}: {done} of {total} {detail}{_left(last - first[0], done - first[1], total - done)}"
                update_progress_artifact(artifact, progress=100.0 * share, description=about)
                if not console.is_terminal:
                    log.info("%s", about)

        yield report
    metrics.stage_done(stage, 1.0)
    update_progress_artifact(artifact, progress=100.0)


def _left(seconds: float, n: int, rest: int) -> str:
    """Returns how long the rest will take at the pace of ``n`` in so many seconds; what an earlier run had done says
    nothing of it."""
    return f", about {_duration(seconds * rest / n)} left" if n > 0 else ""


def _console() -> Console:
    """Returns the console that Prefect's log lines go to, so that they stand above the bar and don't tear it."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger("prefect").handlers):
        if isinstance(found := getattr(handler, "console", None), Console):
            return found
    return Console(file=sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
