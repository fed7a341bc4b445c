"""The shard task: the unit of work, of retry and of resume. The completion record is its only cache."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from prefect import get_run_logger, task

from medsynth_core.config import Config, Paths
from medsynth_core.storage.store import open_store
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.worker import ShardWorker
from tasks.retry import is_transient

_loading = threading.Lock()


@task(name="plan")
def plan_shards(root: str, config: Config) -> tuple[int, list[int]]:
    """Returns the number of shards and those that are missing in the store."""
    store = open_store(config.store, Path(root))
    store.check_writable()
    plan = stage.plan(config, Paths(Path(root)))
    missing = stage.missing_shards(plan, store)
    get_run_logger().info("run %s: %d of %d shards to make", plan.run_id, len(missing), plan.n_shards)
    return plan.n_shards, missing


@task(name="shard", task_run_name="shard-{shard}", retry_delay_seconds=[2, 10, 60], retry_jitter_factor=0.5,
      retry_condition_fn=is_transient, cache_policy=None, persist_result=False)  # fmt: skip
def make_shard(root: str, config: Config, shard: int) -> dict[str, Any]:
    """Makes one shard and returns its counts."""
    record = _worker(root, config).make(shard)
    get_run_logger().info("shard %d: %d of %d accepted", shard, record.counts.accepted, record.counts.requested)
    return {"shard": shard, **record.counts.model_dump(mode="json")}


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def take_share(processes: int, gpus: Sequence[str]) -> None:
    """Gives a new worker process its share of the cores and one of the GPUs, before it has looked for any."""
    if gpus:
        number = int(multiprocessing.current_process().name.rpartition("-")[2])
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _worker(root: str, config: Config) -> ShardWorker:
    with _loading:  # one set of models a process, however many shards are in flight
        return _open_worker(root, config.model_dump_json())


@lru_cache(maxsize=1)
def _open_worker(root: str, config_json: str) -> ShardWorker:
    config = Config.model_validate_json(config_json)
    return stage.open_worker(config, Paths(Path(root)), open_store(config.store, Path(root)))
