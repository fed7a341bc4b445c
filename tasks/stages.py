"""The stages that run once a flow: each task wraps one core ``run`` and is skipped when its outputs are fresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel

from medsynth_core.config import Config, Paths
from medsynth_core.progress import Progress
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.stages import is_fresh, last_report, mark_fresh, read_stages
from tasks.progress import shown
from tasks.retry import is_transient

Core = Callable[[Config, Paths, Progress], Any]


def _run(name: str, root: str, config: Config, version: int, core: Core) -> dict[str, Any]:
    """Runs a stage unless it is fresh, notes it as fresh, and returns its report as plain values."""
    log = get_run_logger()
    workspace = Path(root)
    stage = read_stages(workspace)[name]
    if is_fresh(workspace, stage, config, version):
        log.info("%s: up to date, skipped", name)
        return last_report(workspace, stage)
    with shown(name, log) as progress:
        report = _plain(core(config, Paths(workspace), progress))
    mark_fresh(workspace, stage, config, version, report)
    create_table_artifact(
        key=f"report-{name}", table=[{"what": key, "value": str(value)} for key, value in report.items()]
    )
    log.info("%s: %s", name, ", ".join(f"{k} {v}" for k, v in report.items() if not isinstance(v, dict | list)))
    return report


def _plain(report: Any) -> dict[str, Any]:
    def value(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else item

    return {field.name: value(getattr(report, field.name)) for field in dataclasses.fields(report)}


@task(name="corpus")
def read_corpus(root: str, config: Config) -> dict[str, Any]:
    """Normalises the corpus."""
    from medsynth_core.corpus import stage

    return _run("corpus", root, config, stage.STAGE_VERSION, stage.run)


@task(name="vocabulary")
def mine_vocabulary(root: str, config: Config) -> dict[str, Any]:
    """Mines the vocabularies."""
    from medsynth_core.vocabulary import stage

    return _run("vocabulary", root, config, stage.STAGE_VERSION, stage.run)


@task(
    name="prompts",
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)
def write_prompts(root: str, config: Config) -> dict[str, Any]:
    """Has the prompts written."""
    from medsynth_core.prompts import stage

    return _run("prompts", root, config, stage.STAGE_VERSION, stage.run)


@task(name="vqgan")
def train_vqgan(root: str, config: Config) -> dict[str, Any]:
    """Trains the VQ-GAN."""
    from medsynth_core.training import vqgan

    return _run("vqgan", root, config, vqgan.STAGE_VERSION, vqgan.run)


@task(name="alignment")
def train_alignment(root: str, config: Config) -> dict[str, Any]:
    """Trains the alignment and builds the visual codebook."""
    from medsynth_core.training import alignment

    return _run("alignment", root, config, alignment.STAGE_VERSION, alignment.run)


@task(name="llm")
def train_llm(root: str, config: Config) -> dict[str, Any]:
    """Trains the language model."""
    from medsynth_core.training import llm

    return _run("llm", root, config, llm.STAGE_VERSION, llm.run)


@task(name="collect", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def collect_shards(root: str, config: Config, made: int) -> dict[str, Any]:
    """Writes the list of shards from the completion records; fails when one is missing."""
    from medsynth_core.synthesis import stage

    store = open_store(config.store, Path(root))
    report = _plain(stage.collect(config, Paths(Path(root)), store, made))
    stages = read_stages(Path(root))
    mark_fresh(Path(root), stages["synthesis"], config, stage.STAGE_VERSION, report)
    return report


@task(name="quality", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def judge_release(root: str, config: Config) -> dict[str, Any]:
    """Rejects near-duplicates across shards."""
    from medsynth_core.quality import stage

    store = open_store(config.store, Path(root))
    return _run("quality", root, config, stage.STAGE_VERSION, lambda c, p, r: stage.run(c, p, store, r))


@task(name="release", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def publish_release(root: str, config: Config) -> dict[str, Any]:
    """Publishes the dataset to the store."""
    from medsynth_core.release import publish

    store = open_store(config.store, Path(root))
    return _run("release", root, config, publish.STAGE_VERSION, lambda c, p, r: publish.run(c, p, store, r))


@task(name="report", retries=3, retry_delay_seconds=[5, 30, 120], retry_condition_fn=is_transient)
def write_report(root: str, config: Config) -> dict[str, Any]:
    """Draws the contact sheet and the HTML report."""
    from medsynth_core.evaluation import stage

    return _run("report", root, config, stage.STAGE_VERSION, stage.run)


@task(name="record")
def record(root: str, config: Config) -> str:
    """Records stages and release in git and DVC and returns the tag."""
    from medsynth_core.workspace.record import record_release, record_stages

    trained = config.models.path is None
    record_stages(Path(root), with_models=trained)
    return record_release(Path(root), local_store=not config.store.url.startswith("s3://"))
