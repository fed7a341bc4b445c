"""Training of the finding classifier on the labels that mining read in the reports."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medsynth_core.config import Config, Paths, config_digest
from medsynth_core.hashing import sha256_tree
from medsynth_core.models.classifier import SIDES, FindingClassifier, label_vector, worn
from medsynth_core.progress import Progress
from medsynth_core.training.finish import TrainingReport, checkpoint_path, finish
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs

log = logging.getLogger(__name__)

STAGE_VERSION = 1
_MAX_NOISE = 0.05
"""Largest standard deviation of the noise added in training, of the range [-1, 1]."""


def run(config: Config, paths: Paths, progress: Progress) -> TrainingReport:
    """Trains the classifier and writes it to ``paths.classifier``.

    A label is learnt when at least ``vocabulary.min_studies`` patients have it. Without any such label the
    classifier knows none, and the VQ-GAN goes without its clinical term.

    Raises:
        InputError: there are no training pairs.
        StateError: training diverged.
    """
    settings = config.models.classifier
    accelerator = make_accelerator(config)
    pairs, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    labels = _labels(pairs, config.vocabulary.min_studies)
    if not labels:
        log.warning(
            "classifier: no finding in %d patients or more; the VQ-GAN is trained without its clinical term",
            config.vocabulary.min_studies,
        )
    torch.manual_seed(config.seed)
    model = FindingClassifier(settings, labels).to(accelerator.device)
    truth_NL = _truth(pairs, labels)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        pixels = torch.from_numpy(pairs.pixels(batch.picks)).to(accelerator.device)
        logits = module(worn_in_training(pixels, batch)).float()
        value = F.binary_cross_entropy_with_logits(logits, truth_NL[batch.picks].to(accelerator.device))
        return {"total": value, "loss": value}

    def validate() -> float:
        return float(F.binary_cross_entropy_with_logits(_logits(model, held_out), _truth(held_out, labels)))

    trained = train(
        [Objective("classifier", model, loss)],
        len(pairs),
        settings.train if labels else settings.train.model_copy(update={"steps": 0}),
        accelerator=accelerator,
        key=config_digest(
            STAGE_VERSION, config.seed, settings, sha256_tree(paths.corpus), sha256_tree(paths.vocabulary)
        ),
        seed=config.seed,
        checkpoint=checkpoint_path(paths, "classifier"),
        progress=progress,
        validate=validate,
    )
    return finish("classifier", model.save, paths, trained, evaluate(model, held_out), accelerator)


def worn_in_training(pixels_B1HW: Tensor, batch: Batch) -> Tensor:
    """Returns images blurred and with noise added, each by the draws of its place in the batch."""
    softness, strength = torch.from_numpy(batch.draws(2)).float().to(pixels_B1HW.device)[..., None, None].unbind(1)
    noise = _MAX_NOISE * strength[:, None] * torch.randn_like(pixels_B1HW)
    return worn(pixels_B1HW, softness[:, None], noise)


def evaluate(model: FindingClassifier, pairs: Pairs) -> dict[str, float]:
    """Returns the number of labels and their mean AUROC over the given pairs; labels that all or none have are left
    out."""
    truth_NL = _truth(pairs, model.labels).numpy()
    both = (truth_NL.any(0)) & (~truth_NL.astype(bool)).any(0)
    metrics = {"labels": float(len(model.labels))}
    if both.any():
        score_NL = _logits(model, pairs).numpy()
        metrics["auroc"] = float(np.mean([roc_auc_score(truth_NL[:, i], score_NL[:, i]) for i in np.flatnonzero(both)]))
    return metrics


@torch.inference_mode()
def _logits(model: FindingClassifier, pairs: Pairs, batch_size: int = 64) -> Tensor:
    device = next(model.parameters()).device
    parts = [
        model(torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(device)).cpu()
        for start in range(0, len(pairs), batch_size)
    ]
    return torch.cat(parts)


def _labels(pairs: Pairs, min_patients: int) -> list[tuple[str, str]]:
    every = sorted({(finding["pathology"], side) for found in pairs.findings for finding in found for side in SIDES})
    truth_NL = _truth(pairs, every).numpy().astype(bool)
    patients = np.array(pairs.patients)
    return [label for column, label in enumerate(every) if len(set(patients[truth_NL[:, column]])) >= min_patients]


def _truth(pairs: Pairs, labels: list[tuple[str, str]]) -> Tensor:
    return torch.tensor([label_vector(labels, found) for found in pairs.findings]).view(len(pairs), len(labels))
