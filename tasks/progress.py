"""Progress of a task: a bar on a terminal, a line in the log, an artifact in the UI."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medsynth_core.progress import Progress as Report
from tasks.artifacts import begin_progress

_SECONDS_BETWEEN_UPDATES = 5.0


@contextmanager
def shown(root: str, stage: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> Iterator[Report]:
    """Yields a progress callback that shows a stage's progress to a person at the terminal and in the UI."""
    artifact = begin_progress(root, stage)
    console = Console(file=sys.stderr)
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
    with bar:
        row = bar.add_task(stage, total=None, detail="")

        def report(done: int, total: int, detail: str = "") -> None:
            nonlocal last
            bar.update(row, completed=done, total=total, detail=detail)
            if time.monotonic() - last >= _SECONDS_BETWEEN_UPDATES:
                last = time.monotonic()
                update_progress_artifact(artifact, progress=100.0 * done / max(1, total))
                if not console.is_terminal:
                    log.info("%s: %d of %d %s", stage, done, total, detail)

        yield report
    update_progress_artifact(artifact, progress=100.0)
