"""Training of a classifier on one arm's images, and what it says of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.config import Paths, config_digest
from medsynth_core.evaluation.settings import UtilityParams
from medsynth_core.evaluation.worth.arms import Images, Phase
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.progress import silent
from medsynth_core.random import seed_of
from medsynth_core.training.classifier import worn_in_training
from medsynth_core.training.finish import checkpoint_path, drop_checkpoint
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train

_WORN = 2
"""Draws a sample that ``worn_in_training`` takes."""
_BATCH = 64
_SIDE = 224
"""Side of what torchvision's networks were made for."""


class _OfTorchvision(nn.Module):
    """A network of torchvision's, untrained, on films of one channel."""

    def __init__(self, name: str, n_labels: int) -> None:
        super().__init__()
        from torchvision import models  # here, for loading it takes seconds

        self.net = models.get_model(name, weights=None, num_classes=n_labels)

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        sized = F.interpolate(pixels_B1HW, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.net(sized.expand(-1, 3, -1, -1))
        return logits


def trained_on(
    phases: Sequence[Phase], held_out: Images, names: Sequence[str], params: UtilityParams, paths: Paths, seed: int
) -> nn.Module:
    """Returns a classifier of ``names`` that learnt from images, in evaluation mode, by the checkpoint with the lowest
    loss on held-out ones.

    Raises:
        StateError: training diverged.
    """
    accelerator = make_accelerator(params)
    device = accelerator.device
    torch.manual_seed(seed_of(seed, "utility"))
    steps = params.utility.steps
    config = params.classifier.train.model_copy(
        update={"steps": steps, "warmup_steps": max(1, steps // 5), "checkpoint_every": max(1, steps // 8)}
    )
    model: nn.Module
    if params.utility.network == "own":
        model = FindingClassifier(params.classifier, [(name, "any") for name in names]).to(device)
    else:
        model = _OfTorchvision(params.utility.network, len(names)).to(device)
    held_out_truth = torch.from_numpy(held_out.truth_NL)
    for number, phase in enumerate(phases):
        truth = torch.from_numpy(phase.images.truth_NL)
        settings = config.model_copy(
            update={
                "steps": max(1, round(phase.steps * steps)),
                "learning_rate": phase.rate * config.learning_rate,
            }
        )

        def loss(module: nn.Module, batch: Batch, phase: Phase = phase, truth: Tensor = truth) -> Losses:
            pixels = phase.images.inputs(batch.picks, device)
            if phase.augmented:
                pixels = _augmented(pixels, batch.draws(_WORN + 1 + DRAWS)[:, _WORN:])
            logits = module(worn_in_training(pixels, batch)).float()
            return {"total": F.binary_cross_entropy_with_logits(logits, truth[batch.picks].to(device))}

        checkpoint = checkpoint_path(paths, "utility")
        drop_checkpoint(checkpoint)
        train(
            [Objective("utility", model, loss)],
            len(phase.images),
            settings,
            accelerator=accelerator,
            key=config_digest(number, seed, settings),
            seed=seed,
            checkpoint=checkpoint,
            progress=silent,
            validate=lambda: float(F.binary_cross_entropy_with_logits(logits_of(model, held_out), held_out_truth)),
        )
        drop_checkpoint(checkpoint)
    return model


@torch.inference_mode()
def logits_of(model: nn.Module, images: Images) -> Tensor:
    """Returns what a classifier says of images, float32 [N, L], on the CPU."""
    device = next(model.parameters()).device
    starts = range(0, len(images), _BATCH)
    return torch.cat([model(images.inputs(slice(i, i + _BATCH), device)).float().cpu() for i in starts])


def _augmented(pixels_B1HW: Tensor, draws_BF: npt.NDArray[np.float64]) -> Tensor:
    """Returns images changed as is usual in training: half of them flipped, which no pathology's name minds, and all
    turned, scaled, shifted and with another grey curve."""
    flipped = torch.from_numpy(draws_BF[:, 0] < 0.5).to(pixels_B1HW.device)
    pixels = torch.where(flipped[:, None, None, None], pixels_B1HW.flip(-1), pixels_B1HW)
    return jittered(pixels, draws_BF[:, 1:], 1.0)
