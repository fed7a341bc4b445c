"""Running a stage, and whether its output is up to date: read off dvc.yaml, so that the flow, the commands and
``dvc repro`` agree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.hashing import sha256_json, sha256_tree
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import write_bytes_atomically
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.tree import Config

_MODULES = {
    "corpus": "medsynth_core.corpus.stage",
    "vocabulary": "medsynth_core.vocabulary.stage",
    "prompts": "medsynth_core.prompts.stage",
    "classifier": "medsynth_core.training.classifier",
    "judge": "medsynth_core.training.judge",
    "vqgan": "medsynth_core.training.vqgan",
    "alignment": "medsynth_core.training.alignment",
    "llm": "medsynth_core.training.llm",
    "synthesis": "medsynth_core.synthesis.stage",
    "quality": "medsynth_core.quality.stage",
    "privacy": "medsynth_core.privacy.stage",
    "release": "medsynth_core.release.publish",
    "evaluation": "medsynth_core.evaluation.held_out",
    "utility": "medsynth_core.evaluation.utility_stage",
    "report": "medsynth_core.evaluation.stage",
}
"""The module of each stage: a function ``run`` and a ``STAGE_VERSION``; imported when the stage is needed."""
_WITH_STORE = ("synthesis", "quality", "privacy", "release", "report")


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml: what it reads, which parameters it obeys, what it writes."""

    name: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


def read_stages(root: Path) -> dict[str, Stage]:
    """Returns the stages of a workspace's dvc.yaml by name.

    Raises:
        InputError: there is no dvc.yaml.
    """
    try:
        tree = yaml.safe_load((root / "dvc.yaml").read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{root}: no dvc.yaml; make a workspace with `medsynth init DIR`") from error
    return {
        name: Stage(name, tuple(entry.get("deps", ())), tuple(entry.get("params", ())), _outs(entry))
        for name, entry in tree["stages"].items()
    }


def _outs(entry: Mapping[str, Any]) -> tuple[str, ...]:
    every = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, ())]
    return tuple(path for out in every for path in ([out] if isinstance(out, str) else out))


def run_stage(name: str, root: Path, config: Config, progress: Progress) -> dict[str, Any]:
    """Runs a stage in a workspace, notes it as up to date and returns its report as plain values.

    Under ``accelerate launch`` every process runs it, and the first one notes.

    Raises:
        MedsynthError: as the stage's ``run`` says.
    """
    stage = read_stages(root)[name]
    store = (open_store(config.store, root),) if name in _WITH_STORE else ()
    report = plain(import_module(_MODULES[name]).run(config, Paths(root), *store, progress))
    if os.environ.get("RANK", "0") == "0":
        mark_fresh(root, stage, config, report)
    return report


def plain(report: Any) -> dict[str, Any]:
    """Returns the fields of a stage's report, as JSON has them."""

    def value(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else item

    return {field.name: value(getattr(report, field.name)) for field in fields(report)}


def flat(report: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a report by their dotted names, those in dicts too."""
    values: dict[str, Any] = {}
    for key, value in report.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return values


def is_fresh(root: Path, stage: Stage, config: Config) -> bool:
    """Returns whether the stage's outputs are those of its present inputs, parameters and version."""
    try:
        mark = json.loads(_mark(root, stage).read_text("utf-8"))
        return bool(
            mark["key"] == _key(root, stage, config) and mark["outs"] == [sha256_tree(root / out) for out in stage.outs]
        )
    except (FileNotFoundError, InputError):
        return False


def mark_fresh(root: Path, stage: Stage, config: Config, report: Mapping[str, Any]) -> None:
    """Notes that the outputs on disk are up to date, with the stage's report."""
    mark = {
        "key": _key(root, stage, config),
        "outs": [sha256_tree(root / out) for out in stage.outs],
        "report": report,
    }
    write_bytes_atomically(_mark(root, stage), (json.dumps(mark, indent=1, sort_keys=True) + "\n").encode())


def last_report(root: Path, stage: Stage) -> dict[str, Any]:
    """Returns the report of the run that made a fresh stage's outputs."""
    report: dict[str, Any] = json.loads(_mark(root, stage).read_text("utf-8"))["report"]
    return report


def _mark(root: Path, stage: Stage) -> Path:
    return root / ".medsynth" / "stages" / f"{stage.name}.json"


def _key(root: Path, stage: Stage, config: Config) -> str:
    tree = config.model_dump(mode="json")
    return sha256_json(
        [
            stage.name,
            import_module(_MODULES[stage.name]).STAGE_VERSION,
            {param: _pick(tree, param) for param in stage.params},
            [sha256_tree(root / dep) for dep in stage.deps if (root / dep).exists()],
        ]
    )


def _pick(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part]
    return tree
