"""Prefect's server: whether it is there, and what it says of this run."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from medsynth_core.errors import TransientError
from tasks.stopping import end

_PULSE_S = 10.0
_SILENCE_S = 40.0
"""For so long the server may be away."""


@contextmanager
def server_watched() -> Iterator[None]:
    """Ends the process within a minute when the server doesn't answer any more while the block runs: no state can be
    told it, and Prefect's engine would try for minutes, at the end of each task."""
    with get_client(sync_client=True) as client:
        url = str(client.api_url)
    over = threading.Event()
    threading.Thread(target=_watch, args=(url, over), name="server", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def is_cancelling() -> bool:
    """Returns whether the flow run of this process is being cancelled, or is said to have ended."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state  # type: ignore[arg-type]
    return state is not None and (state.is_cancelling() or state.is_final())


def _watch(url: str, over: threading.Event) -> None:
    last = time.monotonic()
    while not over.wait(_PULSE_S):
        if _answers(url):
            last = time.monotonic()
        elif time.monotonic() - last >= _SILENCE_S and not over.is_set():
            end(TransientError.exit_code, f"Prefect's server at {url} doesn't answer any more", report=False)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_PULSE_S) as answer:
        return bool(answer.status == 200)
    return False
