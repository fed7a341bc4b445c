"""Training of finding classifiers on the labels that mining read in the reports.

Shapes: N images, L labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.models.classifier import FindingClassifier, worn
from medsynth_core.models.settings import ClassifierConfig
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of
from medsynth_core.training.finish import TrainingReport, checkpoint_path, finish
from medsynth_core.training.loop import Batch, Losses, Objective, Trained, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.settings import ClassifierParams
from medsynth_core.vocabulary.labels import Findings, Label, label_matrix, pathology_labels

log = logging.getLogger(__name__)

_MAX_NOISE = 0.05
"""Largest standard deviation of the noise added in training, of the range [-1, 1]."""


def run(params: ClassifierParams, paths: Paths, progress: Progress, *, key: str) -> TrainingReport:
    """Trains the classifier that guides the VQ-GAN and writes it.

    A label is learnt when at least ``vocabulary.min_studies`` patients have it. Without any such label the
    classifier knows none, and the VQ-GAN goes without its clinical term.

    Raises:
        InputError: there are no training pairs.
        StateError: training diverged.
    """
    accelerator = make_accelerator(params)
    pairs, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    labels = frequent_labels(pairs, pathology_labels, params.min_studies)
    if not labels:
        log.warning(
            "classifier: no finding in %d patients or more; the VQ-GAN is trained without its clinical term",
            params.min_studies,
        )
    model, trained = fit(
        params.classifier,
        labels,
        pairs,
        held_out,
        accelerator=accelerator,
        key=key,
        seed=params.seed,
        checkpoint=checkpoint_path(paths, "classifier"),
        progress=progress,
    )
    metrics = {"labels": float(len(labels)), **_mean_auroc(model, held_out)}
    return finish("classifier", model.save, paths, trained, metrics, accelerator)


def fit(
    settings: ClassifierConfig,
    labels: Sequence[Label],
    pairs: Pairs,
    held_out: Pairs,
    *,
    accelerator: Accelerator,
    key: str,
    seed: int,
    checkpoint: Path,
    progress: Progress,
) -> tuple[FindingClassifier, Trained]:
    """Returns a classifier of ``labels`` that learnt from ``pairs``, in evaluation mode, and how its training went.

    Args:
        held_out: judges the checkpoints.
        key: identifies data and settings.

    Raises:
        StateError: training diverged.
    """
    torch.manual_seed(seed_of(seed, checkpoint.stem))
    model = FindingClassifier(settings, labels).to(accelerator.device)
    truth_NL = truth(pairs, labels)
    held_out_truth_NL = truth(held_out, labels)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        pixels = torch.from_numpy(pairs.pixels(batch.picks)).to(accelerator.device)
        logits = module(worn_in_training(pixels, batch)).float()
        value = F.binary_cross_entropy_with_logits(logits, truth_NL[batch.picks].to(accelerator.device))
        return {"total": value, "loss": value}

    trained = train(
        [Objective(checkpoint.stem, model, loss)],
        len(pairs),
        settings.train if labels else settings.train.model_copy(update={"steps": 0}),
        accelerator=accelerator,
        key=key,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        validate=lambda: float(F.binary_cross_entropy_with_logits(logits_of(model, held_out), held_out_truth_NL)),
    )
    return model, trained


def worn_in_training(pixels_B1HW: Tensor, batch: Batch) -> Tensor:
    """Returns images blurred and with noise added, each by the draws of its place in the batch."""
    softness, strength = torch.from_numpy(batch.draws(2)).float().to(pixels_B1HW.device)[..., None, None].unbind(1)
    noise = _MAX_NOISE * strength[:, None] * torch.randn_like(pixels_B1HW)
    return worn(pixels_B1HW, softness[:, None], noise)


def frequent_labels(pairs: Pairs, shown: Callable[[Findings], set[Label]], min_patients: int) -> list[Label]:
    """Returns the labels, of those that ``shown`` reads in findings, that enough patients have."""
    patients: dict[Label, set[str]] = {}
    for patient, condition in zip(pairs.patients, pairs.conditions, strict=True):
        for label in shown(condition.findings):
            patients.setdefault(label, set()).add(patient)
    return sorted(label for label, having in patients.items() if len(having) >= min_patients)


def aurocs(truth_NL: np.ndarray, logits_NL: np.ndarray) -> dict[int, float]:
    """Returns the AUROC of each label by its place; labels that all or none have are left out."""
    both = truth_NL.astype(bool).any(0) & (~truth_NL.astype(bool)).any(0)
    return {int(i): float(roc_auc_score(truth_NL[:, i], logits_NL[:, i])) for i in np.flatnonzero(both)}


@torch.inference_mode()
def logits_of(model: FindingClassifier, pairs: Pairs, batch_size: int = 64) -> Tensor:
    """Returns the logits of all pairs, float32 [N, L], on the CPU."""
    device = next(model.parameters()).device
    parts = [
        model(torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(device)).float().cpu()
        for start in range(0, len(pairs), batch_size)
    ]
    return torch.cat(parts)


def truth(pairs: Pairs, labels: Sequence[Label]) -> Tensor:
    """Returns 1 for each label that mining read in a pair's report, else 0; float32 [N, L]."""
    return torch.from_numpy(label_matrix(labels, [condition.findings for condition in pairs.conditions]))


def _mean_auroc(model: FindingClassifier, pairs: Pairs) -> dict[str, float]:
    found = aurocs(truth(pairs, model.labels).numpy(), logits_of(model, pairs).numpy())
    return {"auroc": float(np.mean(list(found.values())))} if found else {}
