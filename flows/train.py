"""The flow ``train``: corpus and vocabulary in, the models out."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.form import Override
from flows.prepare import prepare
from flows.runner import run_name
from flows.working import working
from medsynth_core.workspace.params import Preset
from medsynth_core.workspace.stages import STAGES
from tasks.stages import run_task


@flow(name="train", flow_run_name=run_name)
def train(
    workspace: str,
    preset: Preset | None = None,
    overrides: list[Override] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains classifier, judge, VQ-GAN, alignment and language model in a workspace; fresh ones are kept.

    Args:
        workspace: folder of params.yaml.
        preset: laid over params.yaml, for this run.
        overrides: changed parameters of this run, as section.key=value; `medsynth config set` changes them for all.
        resume: go on from what the last training of each model left, unfinished or finished, though settings or data
            have changed since; otherwise such a training begins anew.
    """
    with working(workspace):
        run = prepare(workspace, overrides or (), preset)
        root = str(run.root)
        run_task("corpus", root, run.config)
        run_task("vocabulary", root, run.config)
        return {stage.name: run_task(stage.name, root, run.config, resume) for stage in STAGES if stage.given}
