"""The loss curve of a training: rows of a step's terms, and of held-out losses at checkpoints."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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


def forecast(curve: Sequence[Row], steps: int) -> float | None:
    """Returns the lowest held-out loss to be expected by the end: the line through the last half of the held-out losses
    over the logarithm of the step, carried on; None of fewer than three."""
    judged = [(int(row["step"]) + 1, row["held_out"]) for row in curve if "held_out" in row]
    if len(judged) < 3:
        return None
    late = judged[-max(3, len(judged) // 2) :]
    slope, at_one = np.polyfit(np.log([step for step, _ in late]), [loss for _, loss in late], 1)
    return float(min(best_of(curve)[0], at_one + slope * math.log(steps)))


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
