"""Condition contrastive alignment: a trained language model learns to do without guidance.

H. Chen et al., *Toward guidance-free AR visual generation via condition contrastive alignment* (ICLR 2025,
arXiv:2410.09347), eq. 8. Guidance moves a model away from what it would write without a condition; here the model
itself is moved, by telling an image's own conditions from another study's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.settings import ContrastConfig, OptimiserConfig
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.training.examples import Examples
from medsynth_core.training.jitter import DRAWS
from medsynth_core.training.loop import Batch, Losses, Objective, Trained, train

_JUDGED = 64
"""Held-out pairs that judge a checkpoint."""
_CHECKPOINTS = 4


def contrast(
    model: ImageLanguageModel,
    examples: Examples,
    held_out: Examples,
    settings: ContrastConfig,
    *,
    accelerator: Accelerator,
    key: str,
    seed: int,
    checkpoint: Path,
    progress: Progress,
) -> Trained:
    """Trains a model that was trained before, in place, and returns how it went.

    Raises:
        StateError: training diverged.
    """
    before = deepcopy(model).eval().requires_grad_(False)
    others, held_out_others = _others(examples, seed), _others(held_out, seed)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        picks = batch.picks.tolist()
        codes_BT = examples.codes(picks, batch.draws(DRAWS), model.config.jitter)
        return contrastive_terms(module, before, codes_BT, _sides(model, examples, picks, others), settings)

    def validate() -> float:
        picks = list(range(min(_JUDGED, len(held_out))))
        sides = _sides(model, held_out, picks, held_out_others)
        return float(contrastive_terms(model, before, held_out.codes_NT[picks], sides, settings)["total"])

    schedule = OptimiserConfig(
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=min(20, settings.steps // 4),
        checkpoint_every=max(1, settings.steps // _CHECKPOINTS),
    )
    return train(
        [Objective("llm", model, loss, betas=(0.9, 0.95))],
        len(examples),
        schedule,
        accelerator=accelerator,
        key=key,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        validate=validate,
    )


def contrastive_terms(
    module: Callable[..., dict[str, Tensor]],
    before: ImageLanguageModel,
    codes_BT: Tensor,
    sides: tuple[Sequence[Prefix], Sequence[Prefix]],
    settings: ContrastConfig,
) -> dict[str, Tensor]:
    """Returns the loss of images under their own conditions and under others' (eq. 8), by ``own`` and ``other``.

    Args:
        module: what is trained, as ``ImageLanguageModel.forward``.
        before: the model as it was.
        sides: own prefixes, and those of other studies.
    """
    tokens = codes_BT.shape[1]
    terms = {}
    for name, prefixes, sign in (("own", sides[0], 1.0), ("other", sides[1], -1.0)):
        with torch.no_grad():
            was_B = before(prefixes, codes_BT, each=True)["image"]
        gained_B = tokens * (was_B - module(prefixes, codes_BT, each=True)["image"])
        terms[name] = -logsigmoid(sign * settings.sharpness * gained_B).mean()
    return {"total": terms["own"] + settings.strength * terms["other"], **terms}


def _sides(
    model: ImageLanguageModel, examples: Examples, picks: Sequence[int], others: np.ndarray
) -> tuple[list[Prefix], list[Prefix]]:
    return [examples.prefix(model, pick) for pick in picks], [examples.prefix(model, int(others[p])) for p in picks]


def _others(examples: Examples, seed: int) -> np.ndarray:
    """Returns another pair for each, int64 [N], of other findings where a few draws find one."""
    keys, n = examples.pairs.label_keys, len(examples)
    draw = stream(seed, "llm.contrast")
    found = draw.integers(n, size=n)
    for _ in range(8):
        alike = keys[found] == keys
        found[alike] = draw.integers(n, size=int(alike.sum()))
    return found
