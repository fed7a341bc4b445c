"""Guidance distillation: a trained language model learns to write without guidance what it wrote with it.

As C. Meng et al., *On distillation of guided diffusion models* (CVPR 2023, arXiv:2210.03142), stage one, for tokens:
the model goes down its divergence from what guidance makes of its own logits as they were. Condition contrastive
alignment (arXiv:2410.09347) was tried first and gave less for the same time (docs/log/2026-11-films.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from medsynth_core.models.llm import ImageLanguageModel, Prefix, guided
from medsynth_core.models.settings import DistilConfig, OptimiserConfig
from medsynth_core.progress import Progress
from medsynth_core.training.examples import Examples
from medsynth_core.training.jitter import DRAWS
from medsynth_core.training.loop import Batch, Losses, Objective, Trained, train

_JUDGED = 64
"""Held-out pairs that judge a checkpoint."""
_CHECKPOINTS = 4


def distil(
    model: ImageLanguageModel,
    examples: Examples,
    held_out: Examples,
    settings: DistilConfig,
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

    def taught(module: nn.Module, pairs: Examples, picks: Sequence[int], codes_BT: Tensor) -> Tensor:
        own = [pairs.prefix(model, pick) for pick in picks]
        none = [model.empty_prefix(pairs.pairs.conditions[pick]) for pick in picks]
        wanted_BTK = guided_shares(before, own, none, codes_BT, settings.guidance)
        loss: Tensor = module(own, codes_BT, wanted_BTK=wanted_BTK)["image"]
        return loss

    def loss(module: nn.Module, batch: Batch) -> Losses:
        picks = batch.picks.tolist()
        codes_BT = examples.codes(picks, batch.draws(DRAWS), model.config.jitter)
        value = taught(module, examples, picks, codes_BT)
        return {"total": value, "guided": value}

    def validate() -> float:
        picks = list(range(min(_JUDGED, len(held_out))))
        return float(taught(model, held_out, picks, held_out.codes_NT[picks]))

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


@torch.no_grad()
def guided_shares(
    model: ImageLanguageModel, own: Sequence[Prefix], none: Sequence[Prefix], codes_BT: Tensor, guidance: float
) -> Tensor:
    """Returns how likely each code is at each place with guidance, float32 [B, T, K], after the codes before it."""
    with_text, without = (model.token_logits(prefixes, codes_BT) for prefixes in (own, none))
    return guided(with_text, without, guidance).softmax(-1)
