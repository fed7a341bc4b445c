"""Image-report pairs with the positive findings that mining saw in each report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from medsynth_core.config import Paths
from medsynth_core.corpus.images import to_pixels
from medsynth_core.corpus.marks import strip_marks
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError
from medsynth_core.models.condition import Condition


@dataclass(frozen=True)
class Pairs:
    """Aligned lists, one item a view.

    Attributes:
        rows: int64, image rows in the corpus.
        patients: patient ids.
        conditions: the positive findings that mining saw, and frontal or lateral.
        texts: reports without de-identification marks.
        label_keys: equal for views that show the same findings in the same places.
    """

    corpus: Corpus
    rows: np.ndarray
    patients: list[str]
    conditions: list[Condition]
    texts: list[str]
    label_keys: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, picks: np.ndarray) -> np.ndarray:
        """Returns images, float32 [n, 1, H, W] in [-1, 1]."""
        return to_pixels(self.corpus.images(self.rows[picks]))[:, None]

    def flat_pixels(self, start: int, stop: int) -> np.ndarray:
        """Returns a run of images, float32 [n, 1, H, W] in [-1, 1]."""
        return self.pixels(np.arange(start, min(stop, len(self))))


def read_pairs(paths: Paths, split: str) -> Pairs:
    """Returns the pairs of one split: every view of a study with a report.

    Raises:
        InputError: there is none, or the labels don't belong to this corpus.
    """
    corpus = Corpus.open(paths["corpus"])
    labels = _labels(paths["vocabulary"])
    reports = {
        row["study_id"]: strip_marks(f"{row['findings']} {row['impression']}")
        for row in corpus.studies(split).select(["study_id", "findings", "impression"]).to_pylist()
    }
    rows, patients, conditions, texts, keys = [], [], [], [], []
    for view in corpus.views(split).to_pylist():
        text = reports.get(view["study_id"], "")
        if not text:
            continue
        if view["study_id"] not in labels:
            raise InputError(
                f"{paths['vocabulary']}: no labels of study {view['study_id']}; run `medsynth vocabulary` again"
            )
        found = labels[view["study_id"]]
        rows.append(view["row"])
        patients.append(view["patient_id"])
        conditions.append(Condition(tuple(found), "lateral" if view["view"] == "lateral" else "frontal"))
        texts.append(text)
        keys.append("|".join(sorted({f"{f['pathology']}:{f['anatomy']}:{f['side']}" for f in found})))
    if not rows:
        raise InputError(
            f"{paths['corpus']}: no {split} image with a report; models can't be trained on reports alone: "
            f"set corpus.images, or models.path to trained models"
        )
    _, label_keys = np.unique(np.array(keys), return_inverse=True)
    return Pairs(corpus, np.array(rows, dtype=np.int64), patients, conditions, texts, label_keys)


def _labels(folder: Path) -> dict[str, list[dict[str, Any]]]:
    path = folder / "labels.parquet"
    if not path.is_file():
        raise InputError(f"{path}: not found; run `medsynth vocabulary` first")
    return {row["study_id"]: row["findings"] for row in pq.read_table(path).to_pylist()}
