"""The shard task: the unit of work, of retry and of resume. The completion record is its only cache."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from prefect import get_run_logger, task

from medsynth_core.errors import InputError
from medsynth_core.storage.atomic import full_disk
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import open_store
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.identity import ShardPlan
from medsynth_core.synthesis.rounds import read_plan
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.worker import ShardWorker
from medsynth_core.tally import drain
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config
from tasks.logs import name_runs
from tasks.retry import is_transient

_loading = threading.Lock()


@dataclass(frozen=True)
class Todo:
    """The shards of a round that are missing.

    Attributes:
        number: of the round, from 1.
        run_id: names its plan in the store.
    """

    number: int
    run_id: str
    n_shards: int
    missing: tuple[int, ...]


@task(name="plan", task_run_name="plan-round", retries=3, retry_delay_seconds=[5, 30, 120],
      retry_condition_fn=is_transient, cache_policy=None, persist_result=False)  # fmt: skip
def plan_round(root: str, config: Config) -> Todo | None:
    """Returns what the store lacks of the round in work, or None when no more is needed."""
    store = open_store(config.store, Path(root))
    store.check_writable()
    params, paths = SynthesisParams.of(config), workspace_paths(Path(root), config)
    rounds = stage.rounds(params, paths, store, stage.identify(params, paths, store))
    plan, missing = rounds[-1].plan, rounds[-1].missing
    if not missing:
        return None
    get_run_logger().info(
        "round %d, %s: %d of %d shards to make", len(rounds), plan.run_id, len(missing), plan.n_shards
    )
    return Todo(len(rounds), plan.run_id, plan.n_shards, tuple(missing))


@task(name="shard", task_run_name="shard-{shard}", retry_delay_seconds=[2, 10, 60], retry_jitter_factor=0.5,
      retry_condition_fn=is_transient, cache_policy=None, persist_result=False)  # fmt: skip
def make_shard(root: str, config: Config, run_id: str, shard: int) -> dict[str, Any]:
    """Makes one shard and returns its counts."""
    if not Path(root).is_dir():
        raise InputError(
            f"{root}: no such folder on {socket.gethostname()}; a worker needs the workspace at the same path"
        )
    name_runs()
    worker, plan = _worker(root, config, run_id)
    with full_disk(Path(root)):
        record = worker.make(plan, shard)
    get_run_logger().info("shard %d: %d of %d accepted", shard, record.counts.accepted, record.counts.requested)
    return {"shard": shard, **record.counts.model_dump(mode="json"), "counted": drain()}


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


def _worker(root: str, config: Config, run_id: str) -> tuple[ShardWorker, ShardPlan]:
    store = config.store.model_dump_json()
    with _loading:  # one set of models a process, however many shards are in flight
        plan = _read_plan(root, store, run_id)
        return _open_worker(root, config.model_dump_json(), plan.run_id), plan


@lru_cache(maxsize=1)
def _read_plan(root: str, store_json: str, run_id: str) -> ShardPlan:
    return read_plan(open_store(StoreConfig.model_validate_json(store_json), Path(root)), run_id)


@lru_cache(maxsize=1)
def _open_worker(root: str, config_json: str, run_id: str) -> ShardWorker:
    """Loads the models once for all shards of a run; a later one, of other prompts, models or filters, loads anew."""
    config = Config.model_validate_json(config_json)
    folder = Path(root)
    params, paths, store = SynthesisParams.of(config), workspace_paths(folder, config), open_store(config.store, folder)
    return stage.open_worker(params, paths, store, stage.identify(params, paths, store))
