"""Prefect's task runners by name (contract C10), and the names of flow runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from prefect.runtime import flow_run
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from medsynth_core.errors import ConfigError
from medsynth_core.synthesis.settings import RunnerConfig, RunnerKind
from tasks.cluster_jobs import CLUSTER_JOBS
from tasks.shards import take_share, visible_gpus

ON_CLUSTERS = frozenset(get_args(RunnerKind)) - {"threads", "processes"}
"""Kinds whose workers have nothing but the store."""
BY_JOB = frozenset(CLUSTER_JOBS.names())
"""Of these, the ones that run a job of their own, for which Prefect waits in a thread."""


def run_name() -> str:
    """Returns the flow and the workspace's folder, and the round if there are several: ``synthesise-demo-2``."""
    given = flow_run.parameters
    folder = Path(given.get("workspace") or given["root"]).expanduser().resolve().name
    number = given["todo"].number if "todo" in given else 1
    return f"{flow_run.flow_name}-{folder}" + (f"-{number}" if number > 1 else "")


def shards_in_flight(config: RunnerConfig) -> int:
    """Returns how many shards are submitted at once."""
    return max(config.in_flight, _processes(config)) if config.kind == "processes" else config.in_flight


def _processes(config: RunnerConfig) -> int:
    return config.processes or max(1, len(visible_gpus()))


def task_runner(config: RunnerConfig) -> Any:
    """Returns the runner that ``runner.kind`` names.

    Raises:
        ConfigError: its package isn't installed.
    """
    if config.kind == "threads" or config.kind in BY_JOB:
        return ThreadPoolTaskRunner(max_workers=config.in_flight)
    if config.kind == "processes":
        count = _processes(config)
        return ProcessPoolTaskRunner(max_workers=count, initializer=take_share, initargs=(count, visible_gpus()))
    try:
        if config.kind == "ray":
            from prefect_ray import RayTaskRunner

            return RayTaskRunner(address=config.address)
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=config.address)
    except ImportError as error:
        raise ConfigError(f"runner.kind {config.kind} needs the package prefect-{config.kind}; install it") from error
