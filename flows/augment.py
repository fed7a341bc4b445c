"""The flow ``augment``: from reports to a versioned dataset.

``python -m flows.launch augment --workspace DIR`` runs it here; prefect.yaml deploys it.
"""

from __future__ import annotations

import json
import time
from typing import Any

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run

from flows.fleet import fleet
from flows.form import AS_IN_PARAMS, Changes, Override, as_overrides
from flows.prepare import Prepared, prepare
from flows.runner import ON_CLUSTERS, run_name, shards_in_flight, task_runner
from flows.working import working
from medsynth_core.errors import TransientError
from medsynth_core.storage.index import newest_release_at
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.params import Preset
from medsynth_core.workspace.stages import STAGES
from medsynth_core.workspace.tree import Config
from tasks import metrics
from tasks.artifacts import show_counts, show_release
from tasks.progress import Pace, shown
from tasks.shards import Todo, make_shard, plan_round
from tasks.stages import collect_shards, plan_prompts, record, run_task
from tasks.stopping import in_work

_FAILURES_IN_A_ROW = 3
"""Shards that fail one after the other, for each that is in flight, before no more are begun."""


@flow(name="augment", flow_run_name=run_name)
def augment(
    workspace: str,
    extend: bool = False,
    preset: Preset | None = None,
    changes: Changes = AS_IN_PARAMS,
    overrides: list[Override] | None = None,
) -> str:
    """Makes a release in a workspace and returns its tag.

    Stages run in the order of their rows. Prompts are written before models are trained: they need no image, and what
    an LLM server refuses is known early. Run again after a kill, it goes on: fresh stages are skipped, training resumes
    from its checkpoint, and only missing shards are made.

    Args:
        workspace: folder of params.yaml on the machine that runs it.
        extend: add to the newest release; what is made is new, what it holds stays. Otherwise the next version stands
            by itself, or adds to release.parent.
        preset: laid over params.yaml, for this run.
        changes: parameters of this run alone; what is left out is as in params.yaml. `medsynth config set` changes them
            for all runs.
        overrides: any other parameter of this run, as section.key=value.
    """
    with working(workspace):
        run = prepare(workspace, as_overrides(changes, overrides), preset, extend)
        root, config = str(run.root), run.config
        _say_what(run)
        if (last := newest_release_at(open_store(config.store, run.root))) is not None:
            metrics.published(last.timestamp())
        reports = {}
        for stage in STAGES:
            if stage.given and config.models.path is not None:
                continue
            if stage.name == "prompts":
                plan_prompts(root, config)
            reports[stage.name] = (
                make_images(root, config) if stage.name == "synthesis" else run_task(stage.name, root, config)
            )
        tag = record(root, config, run.changes)
        metrics.published(time.time())
        show_release(root, config, tag, reports["release"])
        return tag


def _say_what(run: Prepared) -> None:
    """Says what will be made, and what of it params.yaml doesn't say."""
    release = run.config.release
    what = f"images added to {release.parent}" if release.parent is not None else "a version that stands by itself"
    log = get_run_logger()
    log.info("%s: %s", release.name, what)
    if run.changes:
        said = ", ".join(f"{name}={json.dumps(value)}" for name, value in run.changes.items())
        log.info("in this run alone: %s", said)


def make_images(root: str, config: Config) -> dict[str, Any]:
    """Makes shards round by round until no more are needed, and returns the report of stage ``synthesis``."""
    made = 0
    while (todo := plan_round(root, config)) is not None:
        make = fleet if config.runner.kind in ON_CLUSTERS else synthesise
        made += make.with_options(task_runner=task_runner(config.runner))(root, config, todo)
    return collect_shards(root, config, made)


@flow(name="synthesise", flow_run_name=run_name, validate_parameters=False)
def synthesise(root: str, config: Config, todo: Todo) -> int:
    """Makes the missing shards of a round, a bounded number at a time, and returns how many were made.

    A shard whose retries are used up doesn't stop the others: what is missing in the end is seen from the store, not
    from here. None is begun any more after a failure that no retry can mend, or when so many failed in a row that the
    store must be down; those in flight are awaited.
    """
    log = get_run_logger()
    attempt = make_shard.with_options(retries=config.runner.retries)
    at_once = shards_in_flight(config.runner)
    waiting = list(reversed(todo.missing))
    in_flight: list[PrefectFuture[dict[str, Any]]] = []
    rows: list[dict[str, Any]] = []
    pace = Pace()
    failures: list[BaseException] = []
    in_a_row = 0
    metrics.shards_left(len(waiting), 0)
    with in_work(flow_run.id), shown(root, "synthesis", log) as progress:
        while waiting or in_flight:
            while waiting and len(in_flight) < at_once:
                in_flight.append(attempt.submit(root, config, todo.run_id, waiting.pop()))
            done = next(iter(as_completed(in_flight)))
            in_flight.remove(done)
            result = done.result(raise_on_failure=False)
            if isinstance(result, BaseException):
                failures.append(result)
                metrics.shard_ended(None)
                in_a_row += 1
                if waiting and (not _may_pass(result) or in_a_row == _FAILURES_IN_A_ROW * at_once):
                    log.error("%d shards aren't begun after this failure: %s", len(waiting), result)
                    waiting.clear()
            else:
                rows.append(result)
                pace.add(result["requested"], result["accepted"])
                metrics.shard_ended(result)
                in_a_row = 0
            made = todo.n_shards - len(todo.missing) + len(rows)
            metrics.shards_left(todo.n_shards - made, len(in_flight))
            progress(made, todo.n_shards, str(pace))
    show_counts(root, todo.number, rows)
    if failures:
        raise min(failures, key=_may_pass)
    return len(rows)


def _may_pass(failure: BaseException) -> bool:
    return isinstance(failure, TransientError)
