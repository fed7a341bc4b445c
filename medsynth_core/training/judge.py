"""Training and calibration of the labelling judge, on patients that no other model learns from.

Shapes: N images, L labels.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import GroupKFold
from torchmetrics.functional.classification import binary_calibration_error

from medsynth_core.config import Config, Paths
from medsynth_core.errors import InputError
from medsynth_core.models.judge import Judge
from medsynth_core.progress import Progress
from medsynth_core.training.classifier import aurocs, fit, frequent_labels, logits_of, truth
from medsynth_core.training.finish import TrainingReport, drop_checkpoint, finish
from medsynth_core.training.loop import make_accelerator
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.segmenter import fit as fit_segmenter
from medsynth_core.training.segmenter import segmenter_checkpoint
from medsynth_core.vocabulary.labels import Findings, Label, anatomy_labels, is_anatomy, pathology_labels

log = logging.getLogger(__name__)

STAGE_VERSION = 3
_SPLIT = "judge"
_HALVES = 2
_TEMPERATURES = (0.05, 20.0)
_BINS = 15
Floats = npt.NDArray[np.floating]


def run(config: Config, paths: Paths, progress: Progress) -> TrainingReport:
    """Trains the judge on the split ``judge``, calibrates it on ``val`` and writes it to ``paths.judge``.

    A label, a pathology or the place of one with its side, is learnt when at least ``vocabulary.min_studies`` patients
    of the split have it. Without any such label the judge knows none: the filter ``labels`` then rejects nothing.
    Where images of the split have masks, a segmenter of organs is trained beside it and saved with it.

    Raises:
        InputError: the split has no image with a report.
        StateError: training diverged.
    """
    accelerator = make_accelerator(config)
    pairs, held_out = _own_pairs(config, paths), read_pairs(paths, "val")
    labels = frequent_labels(pairs, _shown, config.vocabulary.min_studies)
    if not labels:
        log.warning(
            "judge: no finding in %d patients or more of its %d; the filter `labels` rejects nothing and the "
            "judge has no figures in the evaluation: raise corpus.judge_fraction, or lower vocabulary.min_studies",
            config.vocabulary.min_studies,
            len(set(pairs.patients)),
        )
    net, trained = fit("judge", STAGE_VERSION, labels, pairs, held_out, config, paths, accelerator, progress)
    logits_NL, truth_NL = logits_of(net, held_out).double().numpy(), truth(held_out, labels).numpy()
    segmenter = fit_segmenter(STAGE_VERSION, pairs, held_out, config, paths, accelerator, progress)
    judge = Judge(net, fit_temperature(logits_NL, truth_NL), segmenter and segmenter[0])
    metrics = {
        "labels": float(len(labels)),
        "temperature": judge.temperature,
        **_discrimination(labels, logits_NL, truth_NL),
        **calibration(logits_NL, truth_NL, held_out.patients),
        **(segmenter[1] if segmenter else {}),
    }
    report = finish("judge", judge.save, paths, trained, metrics, accelerator)
    if accelerator.is_main_process:
        drop_checkpoint(segmenter_checkpoint(paths))
    return report


def fit_temperature(logits_NL: Floats, truth_NL: Floats) -> float:
    """Returns the temperature under which the truth is likeliest, one of all labels: a label of its own has too few
    positives among held-out images. 1 without any label."""
    if truth_NL.size == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        logits = logits_NL / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, np.where(truth_NL > 0, -logits, logits))))

    return float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded").x))


def calibration(logits_NL: Floats, truth_NL: Floats, patients: list[str]) -> dict[str, float]:
    """Returns expected calibration error, Brier score and log loss over all labels, each without and with a
    temperature that was fitted on the patients of the other half. Empty with a single patient, or without any label."""
    if truth_NL.size == 0 or len(set(patients)) < _HALVES:
        return {}
    scaled_NL = np.empty_like(logits_NL)
    for fitted, measured in GroupKFold(_HALVES).split(logits_NL, groups=patients):
        scaled_NL[measured] = logits_NL[measured] / fit_temperature(logits_NL[fitted], truth_NL[fitted])
    figures = {}
    for suffix, values in (("_raw", logits_NL), ("", scaled_NL)):
        probability, true = expit(values).ravel(), truth_NL.astype(np.int64).ravel()
        error = binary_calibration_error(torch.from_numpy(probability), torch.from_numpy(true), n_bins=_BINS)
        figures[f"calibration_error{suffix}"] = float(error)
        figures[f"brier{suffix}"] = float(brier_score_loss(true, probability))
        figures[f"log_loss{suffix}"] = float(log_loss(true, probability, labels=[0, 1]))
    return figures


def _own_pairs(config: Config, paths: Paths) -> Pairs:
    try:
        return read_pairs(paths, _SPLIT)
    except InputError as error:
        raise InputError(
            f"{error} (the judge learns from corpus.judge_fraction={config.corpus.judge_fraction} of the patients)"
        ) from error


def _shown(findings: Findings) -> set[Label]:
    return pathology_labels(findings) | anatomy_labels(findings)


def _discrimination(labels: list[Label], logits_NL: Floats, truth_NL: Floats) -> dict[str, float]:
    """Returns the mean AUROC of pathologies and of anatomies."""
    found = aurocs(truth_NL, logits_NL)
    figures = {}
    for name, wanted in (("auroc_pathology", False), ("auroc_anatomy", True)):
        of_kind = [value for place, value in found.items() if is_anatomy(labels[place][0]) == wanted]
        if of_kind:
            figures[name] = float(np.mean(of_kind))
    return figures
