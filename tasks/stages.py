"""The stages that run once a flow: a task a row, which is skipped when the stage's outputs are fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.runtime import flow_run

from medsynth_core.config.dotted import flat
from medsynth_core.prompts.settings import PromptsParams
from medsynth_core.storage.atomic import full_disk
from medsynth_core.storage.store import open_store
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.workspace.stages import (
    Stage,
    find_stage,
    is_fresh,
    last_report,
    mark_fresh,
    plain,
    run_stage,
    workspace_paths,
)
from medsynth_core.workspace.tree import Config
from tasks import metrics
from tasks.artifacts import show_table
from tasks.prefect_server import is_cancelling
from tasks.progress import shown
from tasks.retry import RETRIES
from tasks.stopping import publishing


def stage_task(stage: Stage) -> Task[[str, Config, bool], dict[str, Any]]:
    """Returns the task of a stage; what a server refused for a while is tried again."""

    def run(root: str, config: Config, resume: bool = False) -> dict[str, Any]:
        return _run(stage.name, root, config, resume)

    made = Task(run, name=stage.name, description=f"{stage.help[0].upper()}{stage.help[1:]}.")
    return made.with_options(**RETRIES) if stage.store or stage.calls else made


def run_task(name: str, root: str, config: Config, resume: bool = False) -> dict[str, Any]:
    """Runs the task of a stage and returns the stage's report.

    Args:
        resume: a training goes on from what the last one of the model left; what can be brought up to date always is.
    """
    return stage_task(find_stage(name))(root, config, resume)


def _run(name: str, root: str, config: Config, resume: bool) -> dict[str, Any]:
    """Runs a stage unless it is fresh and returns its report."""
    log = get_run_logger()
    workspace = Path(root)
    if is_fresh(name, config, workspace):
        log.info("%s: up to date, skipped", name)
        return last_report(name, workspace)
    with shown(root, name, log) as progress:
        report = run_stage(name, config, workspace, progress, resume or find_stage(name).updates)
    table = [{"what": key, "value": str(value)} for key, value in flat(report).items()]
    show_table(root, f"report-{name}", table, f"what stage {name} reports")
    log.info("%s: %s", name, ", ".join(f"{k} {v}" for k, v in report.items() if not isinstance(v, dict | list)))
    return report


@task(name="plan-prompts")
def plan_prompts(root: str, config: Config) -> None:
    """Shows which prompts will be asked for, and what they will cost, before any is paid."""
    from medsynth_core.prompts import stage

    plan = stage.plan(PromptsParams.of(config), workspace_paths(Path(root), config))
    about = f"{plan.requested} prompts, {plan.normal} of them normal. Cost: {plan.cost}"
    show_table(root, "prompt-plan", plan.rows, about)
    metrics.budget(getattr(config.prompts.settings, "budget_usd", None))


@task(name="collect", **RETRIES)
def collect_shards(root: str, config: Config, made: int) -> dict[str, Any]:
    """Writes the list of shards from the completion records; fails when one is missing."""
    from medsynth_core.synthesis import stage

    store, paths = open_store(config.store, Path(root)), workspace_paths(Path(root), config)
    params = SynthesisParams.of(config)
    with full_disk(paths["synthesis"]):
        report = plain(stage.collect(params, paths, store, stage.identify(params, paths, store), made))
    mark_fresh("synthesis", config, Path(root), report)
    return report


@task(name="record")
def record(root: str, config: Config, changes: dict[str, Any]) -> str:
    """Records stages and release in git and DVC, publishes unless the run is being stopped, and returns the tag."""
    from medsynth_core.workspace.origin import run_record
    from medsynth_core.workspace.record import record_release, record_stages

    folder = Path(root)
    with full_disk(folder):
        record_stages(folder, config)
        about = run_record(flow_run.id, changes)
        store = open_store(config.store, folder)
        return record_release(folder, store, config, about, lambda: publishing(is_cancelling))
