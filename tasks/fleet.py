"""Workers of a cluster: each makes shards of a run in the store, and needs no workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import task

from medsynth_core.config import Device
from medsynth_core.storage.completion import read_records, standing_shards
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.settings import RunnerConfig, SynthesisParams
from medsynth_core.synthesis.work import Work, model_cache
from medsynth_core.tally import drain
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config
from tasks.cluster_jobs import CLUSTER_JOBS
from tasks.logs import name_runs
from tasks.retry import RETRIES, is_transient


@dataclass(frozen=True)
class Order:
    """What a cluster's workers are told.

    Attributes:
        store: its path, if it is a folder, is absolute.
    """

    store: StoreConfig
    run_id: str
    workers: int
    device: Device
    lost_after_s: float


@task(name="publish", task_run_name="publish-run", retries=3, retry_delay_seconds=[5, 30, 120],
      retry_condition_fn=is_transient, cache_policy=None, persist_result=False)  # fmt: skip
def publish_run(root: str, config: Config, run_id: str) -> None:
    """Writes what the workers of a planned round need to the store."""
    params, paths = SynthesisParams.of(config), workspace_paths(Path(root), config)
    stage.publish_run(params, paths, open_store(config.store, Path(root)), run_id)


@task(name="worker", task_run_name="worker-{number}", cache_policy=None, persist_result=False, **RETRIES)
def work_part(order: Order, number: int) -> dict[str, Any]:
    """Makes the shards of one part of a run, then helps with others; returns what ``WorkReport`` has and what was
    counted."""
    name_runs()
    store = open_store(order.store, Path.cwd())
    worker, plan = stage.open_published(store, order.run_id, model_cache(), order.device)
    job = Work(worker.make, plan, store, part=(number, order.workers), lost_after_s=order.lost_after_s)
    return {**asdict(job.run()), "counted": drain()}


@task(name="cluster-job", task_run_name="{runner.kind}-job", cache_policy=None, persist_result=False)
def run_job(order: Order, runner: RunnerConfig) -> None:
    """Has Kubernetes or Slurm run the workers, and waits for them."""
    CLUSTER_JOBS.open(runner.kind, order, runner)


class Watched:
    """What of a round stands in the store: each record is read once, and none is kept."""

    def __init__(self, store: ObjectStore, run_id: str, n_shards: int) -> None:
        self._store, self._run_id, self._n_shards = store, run_id, n_shards
        self._seen: set[int] = set()

    def news(self) -> Iterator[dict[str, Any]]:
        """Yields the counts of the shards that came since the last call, as ``make_shard`` returns them."""
        new = sorted(standing_shards(self._store, self._run_id).keys() - self._seen)
        for record in read_records(self._store, self._run_id, new, self._n_shards):
            self._seen.add(record.shard)
            yield {"shard": record.shard, **record.counts.model_dump(mode="json"), "counted": []}
