"""The loss curve of a training: rows of a step's terms, and of held-out losses at checkpoints."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]


def curve_path(checkpoint: Path) -> Path:
    """Returns where the curve of an unfinished training can be followed."""
    return checkpoint.with_suffix(".jsonl")


def write_curve(path: Path, curve: Sequence[Row]) -> None:
    """Writes one JSON line a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in curve), "utf-8")


def best_of(curve: Sequence[Row]) -> tuple[float, int]:
    """Returns the lowest held-out loss and the steps behind it; infinity and 0 without one."""
    found = [(row["held_out"], int(row["step"]) + 1) for row in curve if "held_out" in row]
    return min(found, default=(math.inf, 0))


def stale_checkpoints(curve: Sequence[Row]) -> int:
    """Returns how many judged checkpoints followed the best one."""
    judged = [row["held_out"] for row in curve if "held_out" in row]
    return len(judged) - 1 - judged.index(min(judged)) if judged else 0


def as_table(curve: Sequence[Row]) -> str:
    """Returns the curve as CSV, one line a step, for ``dvc plots``; a term that a step lacks is an empty cell."""
    steps: dict[int, dict[str, float]] = {}
    for row in curve:
        steps.setdefault(int(row["step"]), {}).update(row)
    names = dict.fromkeys(name for row in curve for name in row)
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    return sink.getvalue()
