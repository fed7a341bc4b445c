"""The utility stage: what the release is worth to a trainer, where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsynth_core.config import Config, Paths
from medsynth_core.evaluation.utility import UtilityRow, measure_utility
from medsynth_core.progress import Progress
from medsynth_core.release.reader import open_release
from medsynth_core.storage.atomic import replace_directory

STAGE_VERSION = 2
_ROWS = "utility.json"


@dataclass(frozen=True)
class UtilityReport:
    """AUROC of every setting by share of the real patients, and its gain; empty when no shares were named."""

    auroc: dict[str, dict[str, Any]]


def run(config: Config, paths: Paths, progress: Progress) -> UtilityReport:
    """Measures the workspace's release and writes ``paths.utility``; without ``utility.shares`` nothing is measured.

    Raises:
        InputError: there is no release, or there are too few images.
    """
    release, settings = open_release(paths.root), config.utility
    rows: Sequence[UtilityRow] = ()
    if settings.shares:
        rows = measure_utility(
            config, paths, release, settings.shares, settings.seeds, settings.steps, settings.max_images, progress
        )
    with replace_directory(paths.utility) as folder:
        about = {"release": release.name, "seeds": settings.seeds, "steps": settings.steps}
        text = json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2)
        (folder / _ROWS).write_text(f"{text}\n", "utf-8")
    report = UtilityReport(_flat(rows))
    paths.metrics.mkdir(exist_ok=True)
    (paths.metrics / "utility.json").write_text(json.dumps(report.auroc, indent=2) + "\n", "utf-8")
    return report


def read_utility(folder: Path, release: str) -> dict[str, Any] | None:
    """Returns what the stage measured (seeds, steps, and ``rows`` with the fields of ``UtilityRow``), or None when
    it measured nothing of a release of this name."""
    try:
        about: dict[str, Any] = json.loads((folder / _ROWS).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return about if about["release"] == release and about["rows"] else None


def _flat(rows: Sequence[UtilityRow]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        gain = {} if row.gain is None else {"gain": row.gain[0]}
        found.setdefault(row.setting, {})[f"{100 * row.real_share:g} % of real"] = {"auroc": row.auroc, **gain}
    return found
