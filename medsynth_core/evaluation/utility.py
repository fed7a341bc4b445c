"""The utility stage: what the release is worth to a trainer, where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsynth_core.config import Paths
from medsynth_core.evaluation.settings import UtilityParams
from medsynth_core.evaluation.worth.measured import HELD_OUT, UtilityRow, measure_utility
from medsynth_core.progress import Progress
from medsynth_core.release.reader import open_release
from medsynth_core.storage.atomic import replace_directory

_ROWS = "utility.json"


@dataclass(frozen=True)
class UtilityReport:
    """AUROC of every setting by what it was trained and judged on, and its gains; empty when no shares were named."""

    auroc: dict[str, dict[str, Any]]


def run(params: UtilityParams, paths: Paths, progress: Progress) -> UtilityReport:
    """Measures the workspace's release; without ``utility.shares`` nothing is measured.

    Raises:
        InputError: there is no release, or there are too few images.
    """
    release, settings = open_release(paths.root), params.utility
    rows: Sequence[UtilityRow] = ()
    if settings.shares:
        rows = measure_utility(params, paths, release, progress)
    with replace_directory(paths["utility"]) as folder:
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
        gain = {f"over {name}": over[0] for name, over in row.gains.items()}
        found.setdefault(row.setting, {})[_called(row)] = {"auroc": row.auroc, **gain}
    return found


def _called(row: UtilityRow) -> str:
    """Returns what tells a row from the others of its setting."""
    words = [f"few {row.rare}" if row.rare else f"{100 * row.real_share:g} % of real"]
    words += [f"ratio {row.ratio:g}"] if row.ratio is not None else []
    words += [row.tested_on] if row.tested_on != HELD_OUT else []
    return ", ".join(words)
