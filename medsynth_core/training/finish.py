"""What a training leaves: the model with its card and curve, and metrics for ``dvc metrics`` and ``dvc plots``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.models.artifact import model_digest, write_card
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.training.curve import as_table, curve_path, write_curve
from medsynth_core.training.loop import Trained, best_path


@dataclass(frozen=True)
class TrainingReport:
    """What a training stage did.

    Attributes:
        model: name of the model.
        digest: of the saved model.
        steps: optimiser steps taken; fewer than configured when it stopped early.
        resumed_from: finished steps that a checkpoint supplied.
        best_step: steps behind the weights that were kept; fewer than ``steps`` when later ones only memorised.
        metrics: validation metrics, as on the card.
    """

    model: str
    digest: str
    steps: int
    resumed_from: int
    best_step: int
    metrics: dict[str, float]


def checkpoint_path(paths: Paths, model: str) -> Path:
    """Returns where an unfinished training of a model keeps its checkpoint."""
    return paths.checkpoints / f"{model}.safetensors"


def picture_path(checkpoint: Path) -> Path:
    """Returns where an unfinished training draws what it makes of held-out images."""
    return checkpoint.with_suffix(".png")


def draw_rows(images_u8: np.ndarray, path: Path) -> None:
    """Writes a PNG of images uint8 [rows, N, H, W]."""
    rows, n, height, width = images_u8.shape
    Image.fromarray(images_u8.transpose(0, 2, 1, 3).reshape(rows * height, n * width)).save(path)


def drop_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint with its curve, its picture and its best weights."""
    for path in (checkpoint, curve_path(checkpoint), picture_path(checkpoint), best_path(checkpoint)):
        path.unlink(missing_ok=True)


def finish(
    model: str,
    save: Callable[[Path], None],
    paths: Paths,
    trained: Trained,
    metrics: Mapping[str, float],
    accelerator: Accelerator,
) -> TrainingReport:
    """Writes a trained model with its card and curve at its place, its figures below ``paths.metrics``,
    and drops the checkpoints. Of several processes the main one writes."""
    rounded = {key: round(float(value), 6) for key, value in sorted(metrics.items())}
    if accelerator.is_main_process:
        with replace_directory(paths[model]) as folder:
            save(folder)
            write_card(folder, rounded)
            write_curve(folder / "metrics.jsonl", trained.curve)
        paths.metrics.mkdir(exist_ok=True)
        (paths.metrics / f"{model}.json").write_text(json.dumps(rounded, indent=2) + "\n", "utf-8")
        (paths.metrics / f"{model}.csv").write_text(as_table(trained.curve), "utf-8")
        drop_checkpoint(checkpoint_path(paths, model))
    accelerator.wait_for_everyone()
    digest = model_digest(paths[model], paths.digests)
    return TrainingReport(model, digest, trained.steps, trained.resumed_from, trained.best_step, rounded)
