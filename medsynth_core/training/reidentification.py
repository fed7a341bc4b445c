"""Training of a network that tells films of one patient from films of two, on patients that no generator learns from.

Two films of each patient of a batch, each moved and exposed anew, shall lie nearer to each other than to those of all
others (P. Khosla et al., *Supervised contrastive learning*, NeurIPS 2020, with one positive each; contrastive training
of patients: LCMem, arXiv:2512.14421). Of a patient with one film, both are that film: it then learns what becomes of a
film that is copied, and nothing of what stays of a person from film to film.

Shapes: B patients of a batch, F features.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.config.section import Device
from medsynth_core.errors import InputError
from medsynth_core.hashing import sha256_json
from medsynth_core.models.classifier import worn
from medsynth_core.models.reidentification import PatientEncoder
from medsynth_core.models.settings import OptimiserConfig
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.training.finish import checkpoint_path, drop_checkpoint
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.settings import TrainingParams

VERSION = 1
"""Raised when the same settings and films would give another network."""
FEWEST = 16
"""Patients of whom something can be learnt."""
_SPLIT = "judge"
_TEMPERATURE = 0.1
_MAX_NOISE = 0.05
_NAME = "reidentification"


@dataclass(frozen=True)
class Series:
    """Films of one patient in one view: places among pairs."""

    patient: str
    films: tuple[int, ...]


def series_of(pairs: Pairs) -> list[Series]:
    """Returns the films of each patient and view, by patient: a lateral film and a frontal one look like two people."""
    films: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (patient, condition) in enumerate(zip(pairs.patients, pairs.conditions, strict=True)):
        films[patient, condition.view or ""].append(place)
    return [Series(patient, tuple(places)) for (patient, _), places in sorted(films.items())]


def trained_encoder(
    channels: tuple[int, ...], config: OptimiserConfig, seed: int, device: Device, paths: Paths, progress: Progress
) -> PatientEncoder:
    """Returns a network that learnt from the patients of the split ``judge``, in evaluation mode; it is kept in the
    workspace, and trained once as long as corpus and settings stay.

    Raises:
        InputError: there are fewer than ``FEWEST`` such patients.
        StateError: training diverged.
    """
    about = [VERSION, list(channels), config.model_dump(mode="json"), seed, paths.digest("corpus")]
    key, kept = sha256_json(about), paths.root / ".medsynth" / _NAME
    if kept.is_dir():
        found = PatientEncoder.load(kept, key)
        if found is not None:
            return found
    encoder = _train(channels, config, seed, device, key, paths, progress)
    with replace_directory(kept) as folder:
        encoder.save(folder, key)
    return encoder


def _train(
    channels: tuple[int, ...],
    config: OptimiserConfig,
    seed: int,
    device: Device,
    key: str,
    paths: Paths,
    progress: Progress,
) -> PatientEncoder:
    pairs = read_pairs(paths, _SPLIT)
    series = series_of(pairs)
    patients = sorted({each.patient for each in series})
    if len(patients) < FEWEST:
        raise InputError(
            f"privacy.attackers: reidentification can't learn from {len(patients)} patients, it needs {FEWEST}; raise "
            f"corpus.judge_fraction, or name a network's file: reidentification:FILE"
        )
    number = {patient: place for place, patient in enumerate(patients)}
    patient_S = torch.tensor([number[each.patient] for each in series])
    accelerator = make_accelerator(TrainingParams(seed, "auto", device, None))
    torch.manual_seed(seed_of(seed, _NAME))
    encoder = PatientEncoder(channels).to(accelerator.device)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        draws = batch.draws(2 + 2 * (2 + DRAWS))
        films = [_two_of(series[pick], draw) for pick, draw in zip(batch.picks.tolist(), draws[:, :2], strict=True)]
        pixels = torch.from_numpy(pairs.pixels(np.array(films).T.ravel())).to(accelerator.device)
        changed = _changed(pixels, np.concatenate(np.split(draws[:, 2:], 2, axis=1)))
        value = contrastive_loss(module(changed), patient_S[batch.picks].to(accelerator.device))
        return {"total": value, "loss": value}

    checkpoint = checkpoint_path(paths, _NAME)
    train(
        [Objective(_NAME, encoder, loss)],
        len(series),
        config,
        accelerator=accelerator,
        key=key,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    drop_checkpoint(checkpoint)
    return encoder


def _two_of(series: Series, draw_2: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Returns two films of a patient, other ones where there are several, by draws in [0, 1)."""
    films = list(series.films)
    first = films[int(draw_2[0] * len(films))]
    others = [film for film in films if film != first] or [first]
    return first, others[int(draw_2[1] * len(others))]


def _changed(pixels_B1HW: Tensor, draws_BF: npt.NDArray[np.float64]) -> Tensor:
    """Returns films moved, exposed, blurred and with noise, by 2 + ``DRAWS`` draws each."""
    wear_B211 = torch.from_numpy(draws_BF[:, :2, None, None]).float().to(pixels_B1HW.device)
    noise = _MAX_NOISE * wear_B211[:, 1:] * torch.randn_like(pixels_B1HW)
    return worn(jittered(pixels_B1HW, draws_BF[:, 2:], 1.0), wear_B211[:, :1], noise)


def contrastive_loss(places_2BF: Tensor, patient_B: Tensor) -> Tensor:
    """Returns the mean cross-entropy of finding a film's partner among all films of other patients.

    Args:
        places_2BF: on the unit sphere, the first films of all patients, then the second ones.
        patient_B: int64; a patient may be there twice.
    """
    n = len(patient_B)
    patient = patient_B.repeat(2)
    partner = torch.arange(2 * n, device=patient.device).roll(n)
    alike = places_2BF.float() @ places_2BF.float().T / _TEMPERATURE
    hidden = patient[:, None] == patient[None, :]
    hidden[torch.arange(2 * n), partner] = False
    return F.cross_entropy(alike.masked_fill(hidden, -torch.inf), partner)
