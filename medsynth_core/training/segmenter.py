"""Training of the organ segmenter, on the patients of the labelling judge whose images have masks.

Images are mirrored, turned, scaled and moved, and hearts are painted over, so that it finds an organ where it is, if it
is there, instead of where it usually is. Lungs aren't painted over: one that is white may be full of fluid.

Shapes: B images, G cells a side.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from medsynth_core.corpus.normalised import MASK_SIDE
from medsynth_core.corpus.records import ORGANS, UNMASKED
from medsynth_core.models.segmenter import CELLS, OrganSegmenter
from medsynth_core.models.settings import SegmenterConfig
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of
from medsynth_core.training.classifier import worn_in_training
from medsynth_core.training.loop import Batch, Losses, Objective, train
from medsynth_core.training.pairs import Pairs

log = logging.getLogger(__name__)

_FEWEST = 50
"""Frontal images with masks that a segmenter is trained on."""
_ANGLE, _LOG_SCALE, _MOVE = np.pi / 9, 0.3, 0.2
"""Largest turn in radians, scaling up or down as a logarithm, and shift in halves of the side."""
_PAINTED_OVER = 0.2
"""Share of the images that lose their heart."""
_NUMBERS = {organ: number for number, organ in enumerate(ORGANS, 1)}
_HEART = _NUMBERS["heart"]


def fit(
    settings: SegmenterConfig,
    pairs: Pairs,
    held_out: Pairs,
    *,
    accelerator: Accelerator,
    key: str,
    seed: int,
    checkpoint: Path,
    progress: Progress,
) -> tuple[OrganSegmenter, dict[str, float]] | None:
    """Returns a segmenter in evaluation mode and its Dice coefficient an organ on held-out images (none without masks);
    None where too few images have a mask.

    Args:
        key: identifies data and settings.

    Raises:
        StateError: training diverged.
    """
    rows, held_out_rows = _masked_rows(pairs), _masked_rows(held_out)
    if len(rows) < _FEWEST:
        log.info("segmenter: %d frontal images have a mask, fewer than %d: none is trained", len(rows), _FEWEST)
        return None
    torch.manual_seed(seed_of(seed, checkpoint.stem))
    model = OrganSegmenter(settings).to(accelerator.device)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        pixels, masks = _batch(pairs, rows[batch.picks], accelerator.device)
        draws = torch.from_numpy(batch.draws(9)).float().to(accelerator.device)
        pixels, masks = _moved(*_painted_over(pixels, masks, draws[:, 2:4]), draws[:, 4:])
        value = F.cross_entropy(module(worn_in_training(pixels, batch)).float(), masks, ignore_index=UNMASKED)
        return {"total": value, "loss": value}

    def held_out_loss() -> float:
        logits, masks = _predictions(model, held_out, held_out_rows)
        return float(F.cross_entropy(logits, masks, ignore_index=UNMASKED))

    train(
        [Objective("segmenter", model, loss)],
        len(rows),
        settings.train,
        accelerator=accelerator,
        key=key,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        validate=held_out_loss if len(held_out_rows) else None,
    )
    return model, dice(*_predictions(model, held_out, held_out_rows)) if len(held_out_rows) else {}


def dice(logits_B4GG: Tensor, masks_BGG: Tensor) -> dict[str, float]:
    """Returns the Dice coefficient of each organ over all cells."""
    found, figures = logits_B4GG.argmax(1), {}
    for organ, number in _NUMBERS.items():
        ours, theirs = found == number, masks_BGG == number
        both = float((ours & theirs).sum())
        figures[f"dice_{organ.replace(' ', '_')}"] = 2 * both / max(1.0, float(ours.sum() + theirs.sum()))
    return figures


def _masked_rows(pairs: Pairs) -> np.ndarray:
    """Returns the places, of a split's pairs, of frontal images that have a mask; others aren't judged by it."""
    starts = range(0, len(pairs), 1024)
    parts = [pairs.corpus.masks(pairs.rows[start : start + 1024])[:, 0, 0] != UNMASKED for start in starts]
    frontal = np.array([condition.view != "lateral" for condition in pairs.conditions])
    return np.flatnonzero(np.concatenate(parts) & frontal)


def _batch(pairs: Pairs, picks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns images [B, 1, H, W] in [-1, 1] and their masks at full resolution, float32 [B, 1, 64, 64]."""
    masks = torch.from_numpy(pairs.corpus.masks(pairs.rows[picks])).float()[:, None]
    return torch.from_numpy(pairs.pixels(picks)).to(device), masks.to(device)


def _painted_over(pixels_B1HW: Tensor, masks_B1MM: Tensor, draws_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images and masks some of which lost their heart: it has the mean grey of a lung or of no organ."""
    lost, grey = draws_B2[..., None, None].unbind(1)
    other = (grey * _HEART).floor()[:, None]
    fine = F.interpolate(masks_B1MM, size=pixels_B1HW.shape[-1], mode="nearest")
    there = (fine == other).float()
    mean = (pixels_B1HW * there).sum((1, 2, 3), keepdim=True) / there.sum((1, 2, 3), keepdim=True).clamp(min=1.0)
    lost_B111 = lost[:, None] < _PAINTED_OVER
    pixels = torch.where(lost_B111 & (fine == _HEART), mean, pixels_B1HW)
    return pixels, masks_B1MM.masked_fill(lost_B111 & (masks_B1MM == _HEART), 0.0)


def _moved(pixels_B1HW: Tensor, masks_B1MM: Tensor, draws_B5: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images and cells int64 [B, G, G], mirrored, turned, scaled and moved by uniform draws; what lies beyond
    the image is black and no organ."""
    mirror, angle, scale, right, down = draws_B5.unbind(1)
    mirrored = mirror < 0.5
    angle, scale = (2 * angle - 1) * _ANGLE, torch.exp((2 * scale - 1) * _LOG_SCALE)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    sign = torch.where(mirrored, -1.0, 1.0)
    across = torch.stack([cos * sign, -sin, (2 * right - 1) * _MOVE], 1)
    along = torch.stack([sin * sign, cos, (2 * down - 1) * _MOVE], 1)
    places = torch.stack([across, along], 1)
    grid = F.affine_grid(places, list(pixels_B1HW.shape), align_corners=False)
    pixels = F.grid_sample(pixels_B1HW + 1, grid, align_corners=False) - 1
    grid = F.affine_grid(places, list(masks_B1MM.shape), align_corners=False)
    cells = _cells(F.grid_sample(masks_B1MM, grid, mode="nearest", align_corners=False))
    right_lung, left_lung = _NUMBERS["right lung"], _NUMBERS["left lung"]
    swapped = torch.where(cells == right_lung, left_lung, torch.where(cells == left_lung, right_lung, cells))
    return pixels, torch.where(mirrored[:, None, None], swapped, cells)


@torch.inference_mode()
def _predictions(model: OrganSegmenter, pairs: Pairs, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Returns logits [B, 4, G, G] and cells int64 [B, G, G] of some pairs, on the CPU."""
    device = next(model.parameters()).device
    logits, cells = [], []
    for start in range(0, len(rows), 64):
        pixels, masks = _batch(pairs, rows[start : start + 64], device)
        logits.append(model(pixels).float().cpu())
        cells.append(_cells(masks).cpu())
    return torch.cat(logits), torch.cat(cells)


def _cells(masks_B1MM: Tensor) -> Tensor:
    """Returns the organ at the upper left of each cell, int64 [B, G, G]."""
    step = MASK_SIDE // CELLS
    return masks_B1MM[:, 0, ::step, ::step].long()
