"""Bounds as quantiles of what real held-out data score, so that a setting means the same on every corpus.

Training measures the scores and stores them with the model (``calibration.json``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from medsynth_core.errors import InputError, StateError

_FILE = "calibration.json"


def save_scores(folder: Path, scores: Mapping[str, Iterable[float]]) -> None:
    """Writes the scores of real held-out data by name, sorted and rounded to six digits."""
    rounded = {name: sorted(round(float(value), 6) for value in values) for name, values in scores.items()}
    (folder / _FILE).write_text(json.dumps(rounded, sort_keys=True) + "\n", "utf-8")


def read_bound(folder: Path, name: str, quantile: float, without: float, margin: float = 0.0) -> float:
    """Returns the quantile of the scores that training stored, farther from their median by ``margin`` times the
    distance; ``without`` when the corpus held nothing out.

    Raises:
        InputError: no scores are stored.
        StateError: a score isn't finite, so the model is broken.
    """
    path = folder / _FILE
    try:
        scores = np.array(json.loads(path.read_text("utf-8"))[name], dtype=np.float64)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise InputError(f"{path}: no {name} scores of held-out data; retrain the {folder.name} model") from error
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise StateError(f"{path}: {broken} of {len(scores)} {name} scores aren't finite; retrain {folder.name}")
    if not len(scores):
        return without
    bound, median = np.quantile(scores, [quantile, 0.5])
    return float(bound + margin * (bound - median))
