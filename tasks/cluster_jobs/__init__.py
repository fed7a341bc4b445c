"""Batch systems that run ``medsynth work``, one a module; ``runner.kind`` is the name of one.

Each has ``run(order: Order, runner: RunnerConfig) -> None``, which begins as many workers as are ordered, waits until
they have ended, and takes them back when it is interrupted.
"""

from __future__ import annotations

from medsynth_core.config.plugins import Plugins

CLUSTER_JOBS = Plugins("tasks.cluster_jobs", "runner.kind", "run")
