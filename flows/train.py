"""The flow ``train``: corpus and vocabulary in, the models out."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.prepare import prepare
from flows.runner import run_name
from medsynth_core.workspace.stages import STAGES
from tasks.stages import run_task


@flow(name="train", flow_run_name=run_name)
def train(workspace: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Trains classifier, judge, VQ-GAN, alignment and language model in a workspace; fresh ones are kept.

    Args:
        workspace: folder of params.yaml.
        overrides: changed parameters, as section.key=value; kept in params.yaml.
    """
    folder, config = prepare(workspace, overrides or ())
    root = str(folder)
    run_task("corpus", root, config)
    run_task("vocabulary", root, config)
    return {stage.name: run_task(stage.name, root, config) for stage in STAGES if stage.given}
