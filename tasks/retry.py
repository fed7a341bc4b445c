"""Which failures are tried again.

A task's retries repeat work, a shard or a plan, after a pause of seconds to minutes. A request is repeated by the store
or the provider that makes it, a handful of times, before its TransientError arrives here.
"""

from __future__ import annotations

from typing import Any

from medsynth_core.errors import TransientError


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Returns whether a failed task run may succeed when tried again: only after a TransientError."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [10, 60, 300],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
"""Options of a task that asks a server."""
