"""How many processes share a work."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Returns the cores that this process may use; all of the machine's where the system doesn't tell."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes_for(n: int, enough: int) -> int:
    """Returns how many processes work on ``n`` items, of which ``enough`` are worth the start of a further one."""
    return max(1, min(usable_cores(), n // enough))
