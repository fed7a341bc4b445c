"""A run that was published before it could be cancelled is said to have completed.

``python -m tasks.published RUN PROCESS`` waits until the run's process is gone. Prefect's worker calls such a run
cancelled, by force and up to half a minute later, so that the process itself can't have the last word.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
from prefect.client.orchestration import get_client
from prefect.states import Completed

_WAITED_S = 45
"""A worker ends a process after half a minute."""


def say_so_later(run_id: str, process: int) -> None:
    """Starts a process of its own that does it, which isn't reached by what ends the run's."""
    command = [sys.executable, "-m", "tasks.published", run_id, str(process)]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)


def main() -> None:
    """Waits, and sets the state."""
    run_id, process = sys.argv[1], int(sys.argv[2])
    deadline = time.monotonic() + _WAITED_S
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            state = client.read_flow_run(run_id).state  # type: ignore[arg-type]
            if state is not None and state.is_cancelled() and not psutil.pid_exists(process):
                break
            time.sleep(0.5)
        state = client.read_flow_run(run_id).state  # type: ignore[arg-type]
        if state is not None and (state.is_cancelled() or state.is_cancelling()):
            message = "Published before it could be cancelled."
            client.set_flow_run_state(run_id, Completed(message=message), force=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
