"""The attacker who has the models: training images are likelier to the language model than others.

The score is minus the image's nats a token under its own conditions; ``_relative``, by how much these conditions make
it likelier than none do (S. Zhai et al., *Membership inference on text-to-image diffusion models via conditional
likelihood discrepancy*, NeurIPS 2024; of autoregressive models of images, A. Kowalczuk et al., ICML 2025), which takes
out how common an image is. It says what a shared models folder gives away, not what the images do.

Shapes: N images, B of a batch, T image tokens, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.privacy.attack import Attack
from medsynth_core.privacy.membership import MEMBERS, Attacked
from medsynth_core.privacy.sides import Sides
from medsynth_core.random import stream
from medsynth_core.training.examples import Examples
from medsynth_core.training.pairs import Pairs
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary

Floats = npt.NDArray[np.floating[Any]]
NAME = "models"
_BATCH = 32


@dataclass(frozen=True)
class Likelihoods:
    """Nats a token of images, float32 [N] each.

    Attributes:
        given: under their own conditions.
        alone: under none.
    """

    given: Floats
    alone: Floats


def attack(place: str, sides: Sides) -> Attack:
    """Returns AUC and share of training images found; ``n`` of them are attacked, ``n_held_out`` are others.

    Raises:
        InputError: the language model is missing.
    """
    draw = stream(sides.params.seed, "privacy.likelihood")
    most = min(MEMBERS, sides.params.max_images)
    members, others = (_some(films.pairs, most, draw) for films in (sides.training, sides.held_out))
    model = ImageLanguageModel.load(sides.paths["llm"]).to(sides.device)
    ours, theirs = (likelihoods(model, sides, pairs) for pairs in (members, others))
    attacked = Attacked(members.patients, others.patients, draw)
    about = (NAME, len(members), len(others))
    figures = [*attacked.figures("likelihood", "", about, -ours.given, -theirs.given)]
    if model.config.condition_dropout > 0:  # else it has never seen an image without conditions
        relative = (each.alone - each.given for each in (ours, theirs))
        figures += attacked.figures("likelihood", "_relative", about, *relative)
    return Attack(figures)


@torch.inference_mode()
def likelihoods(model: ImageLanguageModel, sides: Sides, pairs: Pairs) -> Likelihoods:
    """Returns how likely a language model thinks real images are."""
    phrasing = Phrasing(Vocabulary.load(sides.paths["vocabulary"] / "vocabulary.json"))
    examples = Examples(pairs, sides.image_tokenizer, sides.alignment, sides.codebook, model.config, phrasing)
    given, alone = list[Tensor](), list[Tensor]()
    for start in range(0, len(pairs), _BATCH):
        sides.progress(start, len(pairs), "likelihoods")
        codes_BT = examples.codes_NT[start : start + _BATCH]
        places = range(start, start + len(codes_BT))
        given.append(_nats(model, [examples.prefix(model, place) for place in places], codes_BT))
        alone.append(_nats(model, [model.empty_prefix(pairs.conditions[place]) for place in places], codes_BT))
    return Likelihoods(torch.cat(given).numpy(), torch.cat(alone).numpy())


def _nats(model: ImageLanguageModel, prefixes: list[Prefix], codes_BT: Tensor) -> Tensor:
    """Returns the mean cross-entropy of each image's tokens in nats, float32 [B]."""
    logits_BTK = model.token_logits(prefixes, codes_BT)
    wanted_BT = codes_BT.to(logits_BTK.device)
    return cross_entropy(logits_BTK.transpose(1, 2), wanted_BT, reduction="none").mean(1).cpu()


def _some(pairs: Pairs, most: int, draw: np.random.Generator) -> Pairs:
    return pairs.take(draw.permutation(len(pairs))[:most].tolist())
