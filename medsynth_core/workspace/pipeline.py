"""dvc.yaml, rendered from the stages' rows.

``python -m medsynth_core.workspace.pipeline > dvc.yaml`` writes the one that is checked in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from medsynth_core.workspace import stages

_HEADER = """\
# One stage a step of the method; the Prefect flow runs the same commands' core functions and records the same lock.
# Rendered from medsynth_core/workspace/stages.py: `python -m medsynth_core.workspace.pipeline > dvc.yaml`.
# cache: false: DVC knows the hash of a corpus or a model, but never copies patients' data into the store.
stages:
"""


def render_pipeline() -> str:
    """Returns the text of dvc.yaml."""
    return _HEADER + "".join(_entry(stage) for stage in stages.STAGES)


def _entry(stage: stages.Stage) -> str:
    lines = [f"  {stage.name}:", f"    desc: {json.dumps(stage.help)}", f"    cmd: medsynth {stage.command}"]
    if stage.deps:
        lines.append(_listed("deps", [stages.find_stage(dep).out for dep in stage.deps]))
    lines.append(_listed("params", list(stage.paths)))
    lines.append(_listed("outs", [_output(stage.out, {})]))
    if stage.metrics:
        lines.append(_listed("metrics", [_output(path, {}) for path in stage.metrics]))
    if stage.plots:
        lines.append(_listed("plots", [_output(path, drawn) for path, drawn in stage.plots.items()]))
    return "\n".join(lines) + "\n"


def _listed(name: str, items: list[str]) -> str:
    """Returns a list on one line, or an item a line where that would be long."""
    line = f"    {name}: [{', '.join(items)}]"
    return line if len(line) <= 120 else "\n".join([f"    {name}:", *(f"      - {item}" for item in items)])


def _output(path: str, drawn: Mapping[str, str]) -> str:
    about = ", ".join(f"{key}: {value}" for key, value in {"cache": "false", **drawn}.items())
    return f"{{{path}: {{{about}}}}}"


if __name__ == "__main__":
    sys.stdout.write(render_pipeline())
