"""The attacker who has a network that tells films of one patient from films of two: one that is trained here on
patients that no generator learnt from, or ``reidentification:FILE``, a published one (models.reidentification).

How well it tells real films is measured beside, since one that can't re-identify anybody says nothing by finding
nobody: on patients of the splits train, val and test, of whom it has seen none. A published network may have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsynth_core.chance import resampled_interval
from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.filters.thumbnails import Images
from medsynth_core.hashing import sha256_file
from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.models.reidentification import VerificationNetwork
from medsynth_core.privacy.attack import Attack, in_space
from medsynth_core.privacy.membership import auc
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.settings import PrivacyParams
from medsynth_core.privacy.sides import Floats, Sides
from medsynth_core.privacy.space import Space
from medsynth_core.random import stream
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.training.reidentification import series_of, trained_encoder

PLACE = "optional"
_PIXELS_AT_ONCE = 2**20
_STRANGERS = 5
"""Films of others that each film is held against."""
_COPIES = 300
"""Held-out films at most that are copied."""
_FEWEST = 10
"""Patients with two films, or films, of whom there is a figure."""


def check(place: str, paths: Paths) -> None:
    """Checks that a file, where one is named, is such a network's.

    Raises:
        InputError: it is missing, or another network's.
    """
    if place:
        VerificationNetwork.load(file_at(place, paths))


def inputs(place: str, params: PrivacyParams, paths: Paths) -> list[Any]:
    """Returns the digest of the file, or the settings of what is trained."""
    if place:
        return [sha256_file(file_at(place, paths))]
    return [params.reidentification.model_dump(mode="json")]


def attack(place: str, sides: Sides) -> Attack:
    """Returns the figures in the network's space, after how well it re-identifies real films.

    Raises:
        InputError: the file is missing, or there are too few patients to train on.
    """
    seed = sides.params.seed
    if place:
        published = VerificationNetwork.load(file_at(place, sides.paths)).to(sides.device)
        name, embed = f"reidentification:{Path(place).stem}", _embedding(published, sides.device, published.side)
        space = sides.space(name, published.distances, embed)
    else:
        settings = sides.params.reidentification
        own = trained_encoder(
            settings.channels, settings.train, seed, sides.params.device, sides.paths, sides.progress
        ).to(sides.device)
        embed = _embedding(own, sides.device, sides.synthetic.shape[1])
        space = sides.space("reidentification", "euclidean", embed)
    return in_space(space, seed, [verification_figure(space, sides, seed), copy_figure(space, sides, embed, seed)])


def _embedding(network: nn.Module, device: torch.device, side: int) -> Callable[[Images], Floats]:
    @torch.inference_mode()
    def embed(images_u8: Images) -> Floats:
        step = max(1, _PIXELS_AT_ONCE // side**2)
        parts: list[Tensor] = [
            network(to_inputs(np.asarray(images_u8[start : start + step]), device)).float().cpu()
            for start in range(0, len(images_u8), step)
        ]
        places: Floats = torch.cat(parts).numpy()
        return places

    return embed


@dataclass(frozen=True)
class _Held:
    """One film held against another one of its patient and against others' films: distances."""

    patient: str
    same: float
    others: Floats


def verification_figure(space: Space, sides: Sides, seed: int) -> RiskFigure:
    """Returns the AUC of telling pairs of films of one patient from pairs of films of two, of the same view: patient
    verification as in Packhäuser et al., with one pair a patient. Of ``n`` patients with two films there are
    ``n_held_out`` pairs of two patients."""
    draw = stream(seed, "privacy.verification")
    held = list[_Held]()
    places = (space.training, space.held_out, space.reference)
    for films, of in zip(places, (sides.training, sides.held_out, sides.reference), strict=True):
        pairs = of.pairs
        views, patients = np.array([condition.view or "" for condition in pairs.conditions]), np.array(pairs.patients)
        for each in series_of(pairs):
            strangers = np.flatnonzero((views == views[each.films[0]]) & (patients != each.patient))
            if len(each.films) > 1 and len(strangers):
                first, second = draw.choice(each.films, 2, replace=False).tolist()
                asked = films[[second, *draw.choice(strangers, _STRANGERS).tolist()]]
                distances = space.all_pairs(films[[first]], asked)[0]
                held.append(_Held(each.patient, float(distances[0]), distances[1:]))
    what = f"{len(held)} patients have two films of a view, fewer than {_FEWEST}"
    return _told("verification_auc", space.name, held, what, draw)


def copy_figure(space: Space, sides: Sides, embed: Callable[[Images], Floats], seed: int) -> RiskFigure:
    """Returns the AUC of telling a held-out film that was turned, moved and exposed otherwise from films of others:
    what can be known, too, where patients have one film. Of ``n`` films there are ``n_held_out`` pairs of others."""
    draw = stream(seed, "privacy.copies")
    patients = np.array(sides.held_out.patients)
    chosen = draw.permutation(len(patients))[:_COPIES]
    pixels = to_inputs(sides.held_out.images_u8[chosen], torch.device("cpu"))
    copies = embed(to_images(jittered(pixels, draw.random((len(chosen), DRAWS)), 1.0)))
    held = list[_Held]()
    for copy_F, film in zip(copies, chosen.tolist(), strict=True):
        strangers = np.flatnonzero(patients != patients[film])
        if len(strangers):
            asked = space.held_out[[film, *draw.choice(strangers, _STRANGERS).tolist()]]
            distances = space.all_pairs(copy_F[None], asked)[0]
            held.append(_Held(str(patients[film]), float(distances[0]), distances[1:]))
    what = f"{len(held)} held-out films of several patients are fewer than {_FEWEST}"
    return _told("copy_auc", space.name, held, what, draw)


def _told(metric: str, name: str, held: Sequence[_Held], too_few: str, draw: np.random.Generator) -> RiskFigure:
    """Returns an AUC with its interval over patients, or the reason why there is none."""
    about = (metric, name, len(held), _STRANGERS * len(held))
    if len(held) < _FEWEST:
        return RiskFigure(*about, reason=too_few)
    same, other = -np.array([each.same for each in held]), -np.concatenate([each.others for each in held])
    owners = [each.patient for each in held]
    groups = (owners, np.repeat(owners, _STRANGERS).tolist())
    low, high = resampled_interval(auc, (same, other), draw, groups=groups)
    return RiskFigure(*about, auc(same, other), low, high, 0.5)
