"""Image-report pairs with the positive findings that mining saw in each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pairs:
    """Aligned lists, one item a view.

    Attributes:
        rows: int64, image rows in the corpus.
        patients: patient ids.
        conditions: the positive findings that mining saw, and frontal or lateral.
        undecided: pathologies that are uncertain.
        texts: reports without de-identification marks; of a study without one, what the templates write of its
            findings.
        reported: whether the text is a report's.
        label_keys: equal for views that show the same findings in the same places.
    """

    corpus: Corpus
    rows: np.ndarray
    patients: list[str]
    conditions: list[Condition]
    undecided: list[frozenset[str]]
    texts: list[str]
    reported: list[bool]
    label_keys: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, picks: Sequence[int]) -> Pairs:
        """Returns some pairs, in the order of their places."""
        lists = ("patients", "conditions", "undecided", "texts", "reported")
        taken: dict[str, Any] = {name: [getattr(self, name)[pick] for pick in picks] for name in lists}
        places = np.array(picks, dtype=np.int64)
        return replace(self, rows=self.rows[places], label_keys=self.label_keys[places], **taken)

    def images(self, start: int, stop: int) -> np.ndarray:
        """Returns a run of images, uint8 [n, H, W]."""
        return self.corpus.images(self.rows[start:stop])

    def pixels(self, picks: np.ndarray) -> np.ndarray:
        """Returns images, float32 [n, 1, H, W] in [-1, 1]."""
        return to_pixels(self.corpus.images(self.rows[picks]))[:, None]

    def flat_pixels(self, start: int, stop: int) -> np.ndarray:
        """Returns a run of images, float32 [n, 1, H, W] in [-1, 1]."""
        return self.pixels(np.arange(start, min(stop, len(self))))


def read_pairs(paths: Paths, split: str) -> Pairs:
    """Returns the pairs of one split: every view of a study with a report, or of whose findings something is said.

    Raises:
        InputError: there is none, or the labels don't belong to this corpus.
    """
    corpus = Corpus.open(paths["corpus"])
    labels = _labels(paths["vocabulary"])
    reports = {
        row["study_id"]: strip_marks(f"{row['findings']} {row['impression']}")
        for row in corpus.studies(split).select(["study_id", "findings", "impression"]).to_pylist()
    }
    given = corpus.studies_given()
    phrasing = Phrasing(Vocabulary.load(paths["vocabulary"] / "vocabulary.json"))
    rows, patients, conditions, keys = [], [], [], []
    undecided, texts, reported = list[frozenset[str]](), list[str](), list[bool]()
    for view in corpus.views(split).to_pylist():
        study = view["study_id"]
        if not (reports.get(study) or study in given):
            continue
        if study not in labels:
            raise InputError(f"{paths['vocabulary']}: no labels of study {study}; run `medsynth vocabulary` again")
        found, unsure = labels[study]
        rows.append(view["row"])
        patients.append(view["patient_id"])
        conditions.append(Condition(tuple(found), "lateral" if view["view"] == "lateral" else "frontal"))
        undecided.append(unsure)
        reported.append(bool(reports.get(study)))
        texts.append(reports.get(study) or phrasing.of_study(found, unsure, study))
        keys.append("|".join(sorted({f"{f['pathology']}:{f['anatomy']}:{f['side']}" for f in found})))
    if not rows:
        raise InputError(
            f"{paths['corpus']}: no {split} image with a report or given findings; models can't be trained on "
            f"reports alone: set corpus.images, or models.path to trained models"
        )
    _, label_keys = np.unique(np.array(keys), return_inverse=True)
    return Pairs(corpus, np.array(rows, dtype=np.int64), patients, conditions, undecided, texts, reported, label_keys)


def _labels(folder: Path) -> dict[str, tuple[list[dict[str, Any]], frozenset[str]]]:
    """Returns of each study the positive findings and the pathologies that are uncertain."""
    path = folder / "labels.parquet"
    if not path.is_file():
        raise InputError(f"{path}: not found; run `medsynth vocabulary` first")
    return {
        row["study_id"]: (
            row["findings"],
            frozenset(each["pathology"] for each in row["statuses"] if each["status"] == "uncertain"),
        )
        for row in pq.read_table(path).to_pylist()
    }
