"""What a stage measured of the judged images before they are released: kept once in the store, and written with the
digest of the list of shards that it is of.

Figures are of floating point, so the first who measures is right: who measures the same images elsewhere must not make
another release of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsynth_core.chance import rounded
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.hashing import sha256_json
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

Report = dict[str, Any]


@dataclass(frozen=True)
class MeasuredFigure:
    """One figure of the judged images.

    Attributes:
        space: where images were compared.
        n: synthetic images, or what of them enters.
        n_held_out: real images that no model learnt from.
        value: None when there is none for ``reason``.
        low, high: 95 % interval.
        real: what real images get in their place, or chance gives.
        real_low, real_high: 95 % range of that, where it was drawn.
    """

    metric: str
    space: str
    n: int
    n_held_out: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    real: float | None = None
    real_low: float | None = None
    real_high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class MeasuredReport:
    """Images that were compared, and the figures that ``dvc metrics`` shows, in groups."""

    n_synthetic: int
    n_training: int
    n_held_out: int
    figures: dict[str, dict[str, float]]


def as_report(
    n_synthetic: int, n_training: int, n_held_out: int, figures: Sequence[MeasuredFigure], **more: Any
) -> Report:
    """Returns what was found as plain values, ``figures`` as rows of five digits.

    Args:
        more: what is drawn, by name.
    """
    return {
        "n_synthetic": n_synthetic,
        "n_training": n_training,
        "n_held_out": n_held_out,
        "figures": [rounded(asdict(figure)) for figure in figures],
        **more,
    }


def measured_once(
    stage: str, judged: ShardList, inputs: Sequence[Any], store: ObjectStore, measure: Callable[[], Report]
) -> Report:
    """Returns what the store has of these images by these inputs; what ``measure`` returns where it has nothing.

    Args:
        inputs: all that the figures follow from, as JSON has it.
    """
    key = f"runs/{judged.run_ids[-1]}/{stage}/{sha256_json(list(inputs))[:32]}.json"
    if store.size(key) is None:
        store.put(key, (json.dumps(measure(), indent=1) + "\n").encode(), if_absent=True)
    found: Report = json.loads(store.get(key))
    return found


def leave_measured(
    stage: str, paths: Paths, found: Report, shards_sha256: str, figures: dict[str, dict[str, float]], table: str
) -> MeasuredReport:
    """Writes what was found for the release, ``figures`` for ``dvc metrics`` and ``table`` for ``dvc plots``."""
    with replace_directory(paths[stage]) as folder:
        save_measured(stage, folder, found, shards_sha256)
    counts = {name: found[name] for name in ("n_synthetic", "n_training", "n_held_out")}
    paths.metrics.mkdir(exist_ok=True)
    (paths.metrics / f"{stage}.json").write_text(json.dumps({**counts, **figures}, indent=2) + "\n", "utf-8")
    (paths.metrics / f"{stage}.csv").write_text(table, "utf-8")
    return MeasuredReport(**counts, figures=figures)


def save_measured(stage: str, folder: Path, report: Report, shards_sha256: str) -> None:
    """Writes what was found of the shards with this list into ``folder``."""
    text = json.dumps({"shards_sha256": shards_sha256, **report}, indent=2)
    (folder / f"{stage}.json").write_text(text + "\n", "utf-8")


def read_measured(stage: str, folder: Path, shards_sha256: str) -> Report:
    """Returns what ``save_measured`` wrote, ``figures`` as rows.

    Raises:
        InputError: there is nothing, or it is of other shards.
    """
    path = folder / f"{stage}.json"
    try:
        found: Report = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run `medsynth {stage}` first") from error
    if found.pop("shards_sha256") != shards_sha256:
        raise InputError(f"{path}: of other images than data/deduplicate lists; run `medsynth {stage}` again")
    return found


def few_images(counts: dict[str, int], fewest: int, setting: str) -> str | None:
    """Returns in words which sides have fewer images than a figure needs, or None."""
    few = [f"{n} {name}" for name, n in counts.items() if n < fewest]
    return f"{', '.join(few)} images are fewer than {setting}={fewest}" if few else None
