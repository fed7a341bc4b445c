"""What holds while a flow runs: nobody else is at work in the workspace, and it can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.runtime import flow_run

from medsynth_core.workspace.lock import at_work
from tasks import metrics
from tasks.logs import name_runs
from tasks.prefect_server import server_watched
from tasks.stopping import in_work, tag_run


@contextmanager
def working(workspace: str) -> Iterator[None]:
    """Holds the workspace's lock, notes the run as one that may be stopped, and watches Prefect's server.

    Raises:
        InputError: there is no such folder on this machine.
        BusyError: another process is at work in it.
    """
    with at_work(Path(workspace).expanduser().resolve()), in_work(flow_run.id), server_watched():
        tag_run(flow_run.id)
        name_runs()
        metrics.start(workspace, flow_run.id)
        yield
