"""The flow ``fleet``: workers of a cluster make the shards of a round, and the store says what is made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows.runner import BY_JOB, run_name
from medsynth_core.errors import IncompleteRunError
from medsynth_core.storage.store import open_store
from medsynth_core.synthesis.settings import RunnerConfig
from medsynth_core.workspace.tree import Config
from tasks import metrics
from tasks.artifacts import show_table
from tasks.fleet import Order, Watched, publish_run, run_job, work_part
from tasks.progress import Pace, shown
from tasks.shards import Todo
from tasks.stopping import in_work

_LOOK_S, _LOOKS_SHARE = 10.0, 0.02
"""Between two looks at the store, and the most of the time that looks may take."""


@flow(name="fleet", flow_run_name=run_name, validate_parameters=False)
def fleet(root: str, config: Config, todo: Todo) -> int:
    """Has a cluster's workers make the missing shards of a round, and returns how many were made.

    Prefect is told of each worker and asked nothing of a shard, so that its server has no more to do for a million
    images than for a thousand. A worker that is lost is started again by the cluster; a shard that takes workers down
    with it is set aside by the others.
    """
    log, runner = get_run_logger(), config.runner
    publish_run(root, config, todo.run_id)
    store = open_store(config.store, Path(root))
    watched = Watched(store, todo.run_id, todo.n_shards)
    standing = sum(1 for _ in watched.news())
    made, verdicts, pace = 0, Counter[str](), Pace()
    failures: list[BaseException] = []
    reasons: dict[int, str] = {}
    with in_work(flow_run.id), shown(root, "synthesis", log) as progress, _resources(runner) as size:
        workers = runner.workers or size
        assert workers is not None, "checked before anything was begun"
        order = Order(
            config.store.model_copy(update={"url": store.url}),  # of a folder, which workers share, its whole path
            todo.run_id,
            min(workers, len(todo.missing)),
            config.device,
            runner.lost_after_s,
        )
        log.info("%d workers for %d shards of %s", order.workers, len(todo.missing), order.run_id)
        waiting = _started(order, runner, Path(root))
        pause_s = _LOOK_S
        while waiting:
            waiting[0].wait(pause_s)
            began = time.monotonic()
            ended = [each for each in waiting if each.state.is_final()]
            waiting = [each for each in waiting if each not in ended]
            for row in watched.news():
                made += 1
                verdicts.update({"requested": row["requested"], "accepted": row["accepted"], **row["rejected"]})
                pace.add(row["requested"], row["accepted"])
                metrics.shard_ended(row)
            pause_s = max(_LOOK_S, (time.monotonic() - began) / _LOOKS_SHARE)
            for each in ended:
                result = each.result(raise_on_failure=False)
                if isinstance(result, BaseException):
                    log.error("a worker failed: %s", result)
                    failures.append(result)
                elif result is not None:
                    reasons.update(result["failed"])
            metrics.shards_left(todo.n_shards - standing - made, len(waiting))
            progress(standing + made, todo.n_shards, str(pace))
    show_table(root, f"shards-{todo.number}", [{"shards": made, **verdicts}], f"verdicts of round {todo.number}")
    missing = todo.n_shards - standing - made
    if missing and failures:
        raise failures[0]
    if missing:
        why = "; ".join(f"shard {shard}: {reason}" for shard, reason in sorted(reasons.items())[:3])
        raise IncompleteRunError(f"{missing} of {todo.n_shards} shards are missing though all workers ended ({why})")
    return made


def _started(order: Order, runner: RunnerConfig, root: Path) -> list[PrefectFuture[Any]]:
    """Begins the workers: a task each where Prefect reaches the cluster, one that submits a job where it doesn't."""
    if runner.kind in BY_JOB:
        assert runner.job is not None, "checked before anything was begun"
        return [run_job.submit(order, runner.model_copy(update={"job": str(root / Path(runner.job).expanduser())}))]
    attempt = work_part.with_options(retries=runner.retries)
    return [attempt.submit(order, number) for number in range(order.workers)]


@contextmanager
def _resources(runner: RunnerConfig) -> Iterator[int | None]:
    """Yields how many workers the cluster has room for, None where that isn't known; within, what is submitted gets a
    GPU each, where there are any."""
    if runner.kind == "ray":
        import ray
        from prefect_ray.context import remote_options

        gpus = int(ray.cluster_resources().get("GPU", 0))
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = sum(node["Resources"].get("CPU", 0) > 0 for node in alive)  # a head may have no cores
        each = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        with remote_options(**each, max_retries=runner.retries, scheduling_strategy="SPREAD"):
            yield gpus or nodes
    elif runner.kind == "dask":
        import dask

        context = FlowRunContext.get()
        assert context is not None
        there = context.task_runner.client.scheduler_info(n_workers=-1)["workers"].values()  # type: ignore[attr-defined]
        gpus = int(sum(worker["resources"].get("GPU", 0) for worker in there))
        with dask.annotate(retries=runner.retries, **({"resources": {"GPU": 1}} if gpus else {})):
            yield gpus or len(there)
    else:
        yield None
