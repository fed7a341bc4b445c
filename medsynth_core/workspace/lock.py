"""One run at a time in a workspace.

The operating system holds the lock for a process and frees it when that ends, however it ends: a lock that a killed run
left behind can't be. Who holds it is written beside it, for those who must wait.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from medsynth_core.errors import BusyError
from medsynth_core.storage.atomic import write_bytes_atomically

_held: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def at_work(root: Path) -> Iterator[None]:
    """Keeps every other process from working in a workspace while the block runs; within one process it may be nested.

    Raises:
        BusyError: another process is at work there; names it.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes of `accelerate launch`, which work as one
    if not first or not (root / "params.yaml").is_file():  # where there is no workspace, whatever comes next says so
        yield
        return
    with _guard:
        nested = root in _held
        _held.add(root)
    if nested:
        yield
        return
    try:
        with _locked(root):
            yield
    finally:
        _held.discard(root)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    folder = root / ".medsynth"
    folder.mkdir(exist_ok=True)
    lock, note = FileLock(folder / "at-work.lock"), folder / "at-work.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{root}: {_who(note)} is at work here; wait until it ends, or stop it (`kill` lets it stop in order)"
        ) from None
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        write_bytes_atomically(note, json.dumps(about).encode())
        yield
    finally:
        lock.release()


def _who(note: Path) -> str:
    try:
        about = json.loads(note.read_text("utf-8"))
        return f"process {about['pid']} on {about['host']}, since {about['since']},"
    except (OSError, ValueError, KeyError):
        return "another process"
