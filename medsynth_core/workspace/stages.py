"""Is a stage's output up to date? Read off dvc.yaml, so that the flow and ``dvc repro`` agree on dependencies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medsynth_core.config import Config
from medsynth_core.errors import InputError
from medsynth_core.hashing import sha256_json, sha256_tree
from medsynth_core.storage.atomic import write_bytes_atomically


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
        name: Stage(name, *(tuple(entry.get(part, ())) for part in ("deps", "params", "outs")))
        for name, entry in tree["stages"].items()
    }


def is_fresh(root: Path, stage: Stage, config: Config, version: int) -> bool:
    """Returns whether the stage's outputs are those of its present inputs, parameters and version."""
    try:
        mark = json.loads(_mark(root, stage).read_text("utf-8"))
        return bool(
            mark["key"] == _key(root, stage, config, version)
            and mark["outs"] == [sha256_tree(root / out) for out in stage.outs]
        )
    except (FileNotFoundError, InputError):
        return False


def mark_fresh(root: Path, stage: Stage, config: Config, version: int, report: Mapping[str, Any]) -> None:
    """Notes that the outputs on disk are up to date, with the stage's report."""
    mark = {
        "key": _key(root, stage, config, version),
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


def _key(root: Path, stage: Stage, config: Config, version: int) -> str:
    tree = config.model_dump(mode="json")
    return sha256_json(
        [
            stage.name,
            version,
            {param: _pick(tree, param) for param in stage.params},
            [sha256_tree(root / dep) for dep in stage.deps if (root / dep).exists()],
        ]
    )


def _pick(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part]
    return tree
