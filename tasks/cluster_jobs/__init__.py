"""Batch systems that run ``medsynth work``, one a module; ``runner.kind`` is the name of one.

Each has ``run(order: Order, runner: RunnerConfig) -> None``, which begins as many workers as are ordered, waits until
they have ended, and takes them back when it is interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_fixed

from medsynth_core.config.plugins import Plugins
from medsynth_core.errors import TransientError
from tasks.stopping import pause

if TYPE_CHECKING:
    from tasks.fleet import Order

CLUSTER_JOBS = Plugins("tasks.cluster_jobs", "runner.kind", "run")

LOOK_S = 10.0
"""Between two looks at a job."""
PATIENCE_S = 1800.0
"""How long a cluster that doesn't answer is asked again; its workers need nobody who watches them."""
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def options(order: Order) -> list[str]:
    """Returns what ``medsynth work`` is told beside store, run and part."""
    told = ["--device", order.device, "--lost-after", f"{order.lost_after_s:g}"]
    if order.store.endpoint_url is not None:
        told += ["--endpoint-url", order.store.endpoint_url]
    if order.store.region is not None:
        told += ["--region", order.store.region]
    return told


def patiently(ask: Callable[[], _T]) -> _T:
    """Returns a cluster's answer, which is asked for again while it has none.

    Raises:
        TransientError: it had none for ``PATIENCE_S``.
        Stopped: this process was told to stop.
    """
    again = Retrying(
        retry=retry_if_exception_type(TransientError),
        wait=wait_fixed(LOOK_S),
        stop=stop_after_delay(PATIENCE_S),
        sleep=pause,
        before_sleep=before_sleep_log(_log, logging.WARNING),
        reraise=True,
    )
    return again(ask)


def wait_until(is_over: Callable[[], bool]) -> None:
    """Asks a cluster every ``LOOK_S`` until a job is over.

    Raises: as ``patiently`` does.
    """
    while not patiently(is_over):
        pause(LOOK_S)
