"""Calibration of the filters on images as the VQ-GAN renders them, which is all that a generator can emit.

Scores of the rendered held-out images become bounds (``quality.calibration``); rendered training images are what a
generator may have memorised, and the usual anatomy and texture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.models.judge import Judge
from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.quality.alike import nearest_features
from medsynth_core.quality.anatomy import Anatomy
from medsynth_core.quality.calibration import save_scores
from medsynth_core.quality.degenerate import clipped
from medsynth_core.quality.duplicate import nearest, save_reference, signatures
from medsynth_core.quality.embedding import Embedding, save_features, see
from medsynth_core.quality.filters import Images
from medsynth_core.quality.labels import JUDGE, label_costs
from medsynth_core.quality.niqe import NaturalnessModel
from medsynth_core.quality.noise import noise
from medsynth_core.quality.organs import UsualOrgans, measures, organ_cells
from medsynth_core.quality.registration import Registration
from medsynth_core.quality.sharpness import sharpness
from medsynth_core.training.pairs import Pairs

_BATCH = 32
_NATURAL = 512
"""Training images, evenly spread, that the model of image statistics is fitted on; all of them are held in memory."""


def calibrate_filters(
    folder: Path,
    vqgan: VQGAN,
    judge: Judge,
    training_NT: torch.Tensor,
    held_out_NT: torch.Tensor,
    training: Pairs,
    held_out: Pairs,
) -> None:
    """Writes into a model's folder what the filters compare with, and what held-out images score.

    Args:
        training_NT, held_out_NT: codes of ``training`` and of ``held_out``, int64.
    """
    marks_of, features_of, organs_of = [], [], []
    for images in rendered(vqgan, training_NT):
        marks_of.append(signatures(images))
        features_of.append(see(judge, images)[1])
        if judge.segmenter is not None:
            organs_of.append(measures(organ_cells(judge.segmenter, images)))
    training_marks = np.concatenate(marks_of)
    spread = np.linspace(0, len(training_NT) - 1, min(_NATURAL, len(training_NT))).astype(int)
    natural = NaturalnessModel.fit(np.concatenate(list(rendered(vqgan, training_NT[spread]))))
    features_RF = np.concatenate(features_of)
    look = Embedding(judge, features_RF)
    usual = UsualOrgans.fit(np.concatenate(organs_of)[_frontal(training)]) if organs_of else None
    anatomy, registration = Anatomy(training_marks), Registration(training_marks)
    scores: dict[str, list[float]] = defaultdict(list, organs=[])
    done = 0
    for images in rendered(vqgan, held_out_NT):
        marks = signatures(images)
        logits_NL, features_NF = look.see(images)
        costs_NL = label_costs(logits_NL, judge.labels, held_out.findings[done : done + len(images)])
        for name, values in {
            "clipped": clipped(images),
            "sharpness": sharpness(images),
            "noise": noise(images),
            "anatomy": anatomy.scores(marks),
            "niqe": natural.scores(images),
            "training_copy": registration.distances(images),
            "copy": nearest(marks, training_marks)[0],
            "copy_features": nearest_features(features_NF, look.training_RF),
            "labels": costs_NL.sum(1),
        }.items():
            scores[name] += values.tolist()
        if judge.segmenter is not None and usual is not None:
            frontal = images[_frontal(held_out)[done : done + len(images)]]
            if len(frontal):
                scores["organs"] += usual.scores(measures(organ_cells(judge.segmenter, frontal))).tolist()
        done += len(images)
    save_reference(folder, training_marks)
    save_features(folder, features_RF)
    natural.save(folder)
    if usual is not None:
        usual.save(folder)
    judge.save(folder / JUDGE)
    save_scores(folder, scores)


def _frontal(pairs: Pairs) -> npt.NDArray[np.bool_]:
    """Returns which images show organs where a segmenter of frontal films looks for them, bool [N]."""
    return np.array([view != "lateral" for view in pairs.views])


@torch.inference_mode()
def as_rendered(vqgan: VQGAN, images_u8: Images) -> Images:
    """Returns images uint8 [N, H, W] as the VQ-GAN renders them from their own codes."""
    device = vqgan.codebook_KD.device
    parts = [images_u8[:0]]
    for start in range(0, len(images_u8), _BATCH):
        pixels = to_inputs(images_u8[start : start + _BATCH], device)
        parts += rendered(vqgan, vqgan.encode_to_codes(pixels).flatten(1))
    return np.concatenate(parts)


def rendered(vqgan: VQGAN, codes_NT: torch.Tensor) -> Iterator[Images]:
    """Yields batches of images as the VQ-GAN renders them from their codes, int64 [N, T]."""
    side = round(codes_NT.shape[1] ** 0.5)
    device = vqgan.codebook_KD.device
    for codes in codes_NT.split(_BATCH):
        yield to_images(vqgan.decode_codes(codes.view(-1, side, side).to(device)))
