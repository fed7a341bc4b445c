"""Prefect's server: whether it is there, and what it says of this run."""

from __future__ import annotations

import threading
import time
import urllib.request
from contextlib import suppress
from typing import NoReturn

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from medsynth_core.errors import TransientError
from tasks.stopping import end

_PULSE_S = 10.0
_SILENCE_S = 40.0
"""For so long the server may be away."""

_watched = threading.Event()


def watch_server() -> None:
    """Ends the process within a minute when the server doesn't answer any more: no state can be told it, and Prefect's
    engine would try for minutes, at the end of each task."""
    if not _watched.is_set():
        _watched.set()
        with get_client(sync_client=True) as client:
            url = str(client.api_url)
        threading.Thread(target=_watch, args=(url,), name="server", daemon=True).start()


def is_cancelling() -> bool:
    """Returns whether the flow run of this process is being cancelled, or is said to have ended."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state  # type: ignore[arg-type]
    return state is not None and (state.is_cancelling() or state.is_final())


def _watch(url: str) -> NoReturn:
    last = time.monotonic()
    while True:
        time.sleep(_PULSE_S)
        if _answers(url):
            last = time.monotonic()
        elif time.monotonic() - last >= _SILENCE_S:
            end(TransientError.exit_code, f"Prefect's server at {url} doesn't answer any more", report=False)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_PULSE_S) as answer:
        return bool(answer.status == 200)
    return False
