"""The stages that run once a flow: each task wraps one core ``run`` and is skipped when its outputs are fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from medsynth_core.config import Paths
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.stages import flat, is_fresh, last_report, mark_fresh, plain, read_stages, run_stage
from medsynth_core.workspace.tree import Config
from tasks.progress import shown
from tasks.retry import is_transient


def _run(name: str, root: str, config: Config) -> dict[str, Any]:
    """Runs a stage unless it is fresh and returns its report."""
    log = get_run_logger()
    workspace = Path(root)
    stage = read_stages(workspace)[name]
    if is_fresh(workspace, stage, config):
        log.info("%s: up to date, skipped", name)
        return last_report(workspace, stage)
    with shown(name, log) as progress:
        report = run_stage(name, workspace, config, progress)
    create_table_artifact(
        key=f"report-{name}", table=[{"what": key, "value": str(value)} for key, value in flat(report).items()]
    )
    log.info("%s: %s", name, ", ".join(f"{k} {v}" for k, v in report.items() if not isinstance(v, dict | list)))
    return report


@task(name="corpus")
def read_corpus(root: str, config: Config) -> dict[str, Any]:
    """Normalises the corpus."""
    return _run("corpus", root, config)


@task(name="vocabulary")
def mine_vocabulary(root: str, config: Config) -> dict[str, Any]:
    """Mines the vocabularies."""
    return _run("vocabulary", root, config)


@task(name="plan-prompts")
def plan_prompts(root: str, config: Config) -> None:
    """Shows which prompts will be asked for, and what they will cost, before any is paid."""
    from medsynth_core.prompts import stage

    plan = stage.plan(config, Paths(Path(root)))
    about = f"{plan.requested} prompts, {plan.normal} of them normal. Cost: {plan.cost}"
    create_table_artifact(key="prompt-plan", table=plan.rows, description=about)


@task(
    name="prompts",
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)
def write_prompts(root: str, config: Config) -> dict[str, Any]:
    """Has the prompts written."""
    return _run("prompts", root, config)


@task(name="classifier")
def train_classifier(root: str, config: Config) -> dict[str, Any]:
    """Trains the finding classifier."""
    return _run("classifier", root, config)


@task(name="judge")
def train_judge(root: str, config: Config) -> dict[str, Any]:
    """Trains the labelling judge."""
    return _run("judge", root, config)


@task(name="vqgan")
def train_vqgan(root: str, config: Config) -> dict[str, Any]:
    """Trains the VQ-GAN."""
    return _run("vqgan", root, config)


@task(name="alignment")
def train_alignment(root: str, config: Config) -> dict[str, Any]:
    """Trains the alignment and builds the visual codebook."""
    return _run("alignment", root, config)


@task(name="llm")
def train_llm(root: str, config: Config) -> dict[str, Any]:
    """Trains the language model."""
    return _run("llm", root, config)


@task(name="collect", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def collect_shards(root: str, config: Config, made: int) -> dict[str, Any]:
    """Writes the list of shards from the completion records; fails when one is missing."""
    from medsynth_core.synthesis import stage

    store = open_store(config.store, Path(root))
    report = plain(stage.collect(config, Paths(Path(root)), store, made))
    mark_fresh(Path(root), read_stages(Path(root))["synthesis"], config, report)
    return report


@task(name="quality", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def judge_release(root: str, config: Config) -> dict[str, Any]:
    """Rejects near-duplicates across shards."""
    return _run("quality", root, config)


@task(name="privacy", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def measure_privacy(root: str, config: Config) -> dict[str, Any]:
    """Measures what the images give away of the training images."""
    return _run("privacy", root, config)


@task(name="release", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def publish_release(root: str, config: Config) -> dict[str, Any]:
    """Publishes the dataset to the store."""
    return _run("release", root, config)


@task(name="evaluation", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def evaluate_release(root: str, config: Config) -> dict[str, Any]:
    """Compares the release with held-out real images."""
    return _run("evaluation", root, config)


@task(name="utility")
def measure_utility(root: str, config: Config) -> dict[str, Any]:
    """Trains classifiers with and without the release, if that was asked for."""
    return _run("utility", root, config)


@task(name="report", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def write_report(root: str, config: Config) -> dict[str, Any]:
    """Draws the contact sheet and the HTML report."""
    return _run("report", root, config)


@task(name="record")
def record(root: str, config: Config) -> str:
    """Records stages and release in git and DVC and returns the tag."""
    from medsynth_core.workspace.record import record_release, record_stages

    trained = config.models.path is None
    record_stages(Path(root), with_models=trained)
    return record_release(Path(root), open_store(config.store, Path(root)))
