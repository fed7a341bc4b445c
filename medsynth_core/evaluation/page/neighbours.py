"""The training images that the shown images come nearest to, where they may be shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from medsynth_core.config import Paths
from medsynth_core.evaluation.page.gallery import Neighbour
from medsynth_core.filters.thumbnails import nearest
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.training.pairs import read_pairs


def is_of_drawings(paths: Paths) -> bool:
    """Returns whether the corpus at hand, whatever the settings say, is the phantom, which shows no patient."""
    return bool(json.loads((paths["corpus"] / "corpus.json").read_text("utf-8"))["kind"] == "phantom")


def nearest_training_images(paths: Paths, rows: Sequence[dict[str, Any]]) -> list[Neighbour | None]:
    """Returns the training image whose thumbnail comes nearest to that of each row of the manifest.

    None where the models at hand aren't those that made the image, or weren't trained on the corpus at hand: whose
    training images are meant then, nobody here knows.
    """
    if VisualCodebook.load(paths["alignment"] / "codebook").corpus != paths.digest("corpus"):
        return [None] * len(rows)
    training, reference = read_pairs(paths, "train"), TrainingSet.load(paths["calibrate"]).thumbnails
    shown = np.stack([np.frombuffer(row["signature"], dtype=np.uint8) for row in rows])
    distances, places = nearest(shown, reference)
    images = training.corpus.images(training.rows[places])
    own = model_digest(paths["llm"], paths.digests)
    return [
        Neighbour(image, float(distance)) if row["llm_sha256"] == own else None
        for row, image, distance in zip(rows, images, distances, strict=True)
    ]
