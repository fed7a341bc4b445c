"""How well two sets of images are told apart by who has seen both: an AUC of 0.5 is a guess (C2ST: D. Lopez-Paz,
M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017).

Every image is judged by a model that learnt from others: folds are of whole groups, patients or prompts. Of a network's
logits each fold's are standardised before they are pooled, since each fold has a network of its own.

Shapes: N images, B images a batch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from medsynth_core.chance import auroc, group_weights, value_with_interval
from medsynth_core.fidelity.spectrum import spectrum_features
from medsynth_core.filters.thumbnails import Images
from medsynth_core.models.pixels import to_inputs
from medsynth_core.random import seed_of, stream

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Judge = Callable[[Places, Places], Floats]
"""Learns from the images at the first places; returns scores of those at the second, higher for ``ours``."""
_DRAWS = 1000
FOLDS = {"spectrum": 5, "network": 3}
_CHANNELS, _GROUPS = (16, 32, 64), 4
_STEPS, _BATCH, _PEAK_RATE = 60, 64, 4e-3
_SHIFT, _WINDOW = 16, 128
"""One part in so many of the side is cut off at random edges, so that a network learns no places; and it learns from
windows of so many pixels at most, which bounds what large images cost."""
_DETAIL = 8.0
"""By so much what differs from its 3 x 3 surroundings is raised in a second channel, else it were found late."""
_KNOWN = 0.02
"""Mean loss of the last steps, in nats, at which a network has nothing left to learn."""
_LAST = 8


def by_spectrum(ours: Images, theirs: Images, groups: Sequence[str], seed: int) -> tuple[float, float, float]:
    """Returns AUC and 95 % interval of a logistic regression on ``spectrum_features``.

    Args:
        groups: patient or prompt of each image, ours first.
    """
    features = spectrum_features(np.concatenate([ours, theirs]))
    truth = _truth(ours, theirs)

    def judge(known: Places, asked: Places) -> Floats:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores: Floats = model.fit(features[known], truth[known]).decision_function(features[asked])
        return scores

    return _told("spectrum", truth, groups, seed, judge)


def by_network(
    ours: Images, theirs: Images, groups: Sequence[str], seed: int, device: torch.device
) -> tuple[float, float, float]:
    """Returns AUC and 95 % interval of a small convolutional network on the pixels.

    Args:
        groups: patient or prompt of each image, ours first.
    """
    images, truth = np.concatenate([ours, theirs]), _truth(ours, theirs)

    def judge(known: Places, asked: Places) -> Floats:
        net = _trained(images[known], truth[known], seed_of(seed, "fidelity.network", int(asked[0])), device)
        logits = _logits(net, images[asked])
        return (logits - logits.mean()) / (logits.std() + 1e-9)

    return _told("network", truth, groups, seed, judge)


def _truth(ours: Images, theirs: Images) -> Bools:
    return np.arange(len(ours) + len(theirs)) < len(ours)


def _told(name: str, truth: Bools, groups: Sequence[str], seed: int, judge: Judge) -> tuple[float, float, float]:
    folds = StratifiedGroupKFold(FOLDS[name], shuffle=True, random_state=seed_of(seed, "fidelity.folds") % 2**32)
    scores = np.empty(len(truth))
    for known, asked in folds.split(truth, truth, groups):
        scores[asked] = judge(known, asked)
    weights = group_weights(groups, _DRAWS, stream(seed, "fidelity.told_apart"))
    return value_with_interval(auroc(scores, truth, weights))


class _Network(nn.Module):
    """Pixels [B, 1, H, W] in [-1, 1] to logits [B]; 42,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for n_in, n_out in zip((2, *_CHANNELS), _CHANNELS, strict=False):
            stages += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.GroupNorm(_GROUPS, n_out), nn.LeakyReLU(0.2)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(2 * _CHANNELS[-1], 1)

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        detail_B1HW = _DETAIL * (pixels_B1HW - F.avg_pool2d(pixels_B1HW, 3, stride=1, padding=1))
        seen_BCHW = self.stages(torch.cat([pixels_B1HW, detail_B1HW.clamp(-2, 2)], 1))
        logits_B: Tensor = self.head(torch.cat([seen_BCHW.mean((2, 3)), seen_BCHW.amax((2, 3))], 1))[:, 0]
        return logits_B


def _trained(images_u8: Images, truth: Bools, seed: int, device: torch.device) -> _Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "fidelity.network"))
        net = _Network().to(device).train()
    draw = stream(seed, "fidelity.batches")
    optimiser = torch.optim.AdamW(net.parameters(), lr=_PEAK_RATE, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=_STEPS)
    wanted = torch.from_numpy(truth).float().to(device)
    losses: list[float] = []
    side = images_u8.shape[1]
    window = min(side - side // _SHIFT, _WINDOW)
    halves = np.flatnonzero(truth), np.flatnonzero(~truth)
    for _ in range(_STEPS):
        picks = np.concatenate([draw.choice(half, _BATCH // 2, replace=len(half) < _BATCH // 2) for half in halves])
        top, left = (int(each) for each in draw.integers(0, side - window + 1, 2))
        pixels = to_inputs(images_u8[picks, top : top + window, left : left + window], device)
        loss = F.binary_cross_entropy_with_logits(net(pixels), wanted[torch.from_numpy(picks).to(device)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        losses.append(loss.item())
        if len(losses) >= _LAST and np.mean(losses[-_LAST:]) < _KNOWN:
            break
    return net.eval()


@torch.inference_mode()
def _logits(net: _Network, images_u8: Images) -> Floats:
    device = next(net.parameters()).device
    parts = [net(to_inputs(images_u8[at : at + _BATCH], device)) for at in range(0, len(images_u8), _BATCH)]
    logits: Floats = torch.cat(parts).cpu().numpy()
    return logits
