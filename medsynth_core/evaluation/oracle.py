"""The phantom oracle: finds pathologies and their sides from pixels alone.

Because a phantom's truth is known, a small convolutional classifier can be trained on fresh phantoms, of a seed
that no corpus uses, with blur and noise added so that it judges shapes and not the tokeniser's texture. What a
tokeniser smooths, two lines that have run into one, is neither there nor gone: single networks that differ in their
first weights alone find 0.3 to 0.8 of the atelectases in the same images. So several are asked, and their mean counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.corpus.phantom import PATHOLOGIES, phantom_study
from medsynth_core.progress import Progress, silent
from medsynth_core.random import seed_of

SEED_OFFSET = 7_000_003
"""Added to the corpus' seed: the oracle's phantoms are of other patients."""
_SIDE = 64
_SIDES = ("right", "left")


@dataclass(frozen=True)
class FoundRow:
    """How often the oracle finds one pathology.

    Attributes:
        n_with, n_without: images whose prompt names it, and doesn't.
        found_with, found_without: share of them in which it is found.
        n_sided: images in which it is found, and whose prompt gives a side.
        side_correct: share of those with the strongest sign on that side; None without any.
    """

    pathology: str
    n_with: int
    n_without: int
    found_with: float
    found_without: float | None
    n_sided: int
    side_correct: float | None

    @property
    def balanced_accuracy(self) -> float | None:
        return None if self.found_without is None else (self.found_with + 1.0 - self.found_without) / 2


class Oracle:
    """Trained classifiers; their mean is one probability a pathology and side."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        self._nets = [net.eval() for net in nets]

    @classmethod
    def fit(
        cls, seed: int = 0, n: int = 3000, epochs: int = 5, networks: int = 3, progress: Progress = silent
    ) -> Oracle:
        """Returns an oracle of so many networks, all trained on the same ``n`` fresh phantoms of 64 x 64 pixels."""
        images, truth = _draw(seed + SEED_OFFSET, n)
        batch, steps = 64, epochs * (n // 64)
        nets = []
        with torch.random.fork_rng(devices=[]):
            for number in range(networks):
                torch.manual_seed(seed_of(seed, "oracle", number))
                net = _network()
                optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
                schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
                for epoch in range(epochs):
                    order = torch.randperm(n)
                    for start in range(0, n - batch + 1, batch):
                        picks = order[start : start + batch]
                        loss = F.binary_cross_entropy_with_logits(net(_worn(images[picks])), truth[picks])
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                        schedule.step()
                    progress(number * epochs + epoch + 1, networks * epochs, "oracle")
                nets.append(net)
        return cls(nets)

    @torch.inference_mode()
    def probabilities(self, images_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns [N, pathology, side (right, left)] in 0..1 of images uint8 [N, H, W]."""
        parts = [torch.zeros(0, len(PATHOLOGIES) * 2)]
        for start in range(0, len(images_u8), 256):
            pixels = _to_input(images_u8[start : start + 256])
            parts.append(torch.stack([torch.sigmoid(net(pixels)) for net in self._nets]).mean(0))
        result: npt.NDArray[np.float32] = torch.cat(parts).view(-1, len(PATHOLOGIES), 2).numpy()
        return result

    def found(self, images_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Returns [N, pathology]: found on either side."""
        found: npt.NDArray[np.bool_] = self.probabilities(images_u8).max(axis=2) > 0.5
        return found


def found_table(
    oracle: Oracle, images_u8: npt.NDArray[np.uint8], requested: Sequence[Sequence[tuple[str, str]]]
) -> list[FoundRow]:
    """Returns a row a pathology that was requested at least once.

    Args:
        requested: the (pathology, side) pairs of each image's prompt.
    """
    probability = oracle.probabilities(images_u8)
    found = probability.max(axis=2) > 0.5
    rows = []
    for column, name in enumerate(PATHOLOGIES):
        asked = np.array([any(p == name for p, _ in item) for item in requested], dtype=bool)
        if not asked.any():
            continue
        sides = [next((s for p, s in item if p == name and s in _SIDES), None) for item in requested]
        sided = [i for i, side in enumerate(sides) if side is not None and found[i, column]]
        right = [probability[i, column].argmax() == _SIDES.index(str(sides[i])) for i in sided]
        rows.append(
            FoundRow(
                name,
                int(asked.sum()),
                int((~asked).sum()),
                float(found[asked, column].mean()),
                float(found[~asked, column].mean()) if (~asked).any() else None,
                len(right),
                float(np.mean(right)) if right else None,
            )
        )
    return rows


def _network() -> nn.Module:
    channels = (1, 24, 48, 96)
    blocks: list[nn.Module] = []
    for inner, outer in pairwise(channels):
        blocks += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(
        *blocks,
        nn.Conv2d(96, 32, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 64, 128),
        nn.ReLU(),
        nn.Linear(128, len(PATHOLOGIES) * 2),
    )


def _draw(seed: int, n: int) -> tuple[Tensor, Tensor]:
    images = np.empty((n, _SIDE, _SIDE), dtype=np.uint8)
    truth = torch.zeros(n, len(PATHOLOGIES), 2)
    for index in range(n):
        study = phantom_study(seed, index, _SIDE)
        images[index] = study.views[0].load()
        for finding in study.truth["findings"]:  # type: ignore[attr-defined]
            row = PATHOLOGIES.index(finding["pathology"])
            for column, side in enumerate(_SIDES):
                truth[index, row, column] = float(finding["side"] in {side, "bilateral", "none"})
    return _to_input(images), truth.flatten(1)


def _to_input(images_u8: npt.NDArray[np.uint8]) -> Tensor:
    """Returns float32 [N, 1, 64, 64] with mean 0 and deviation 1 an image, so that exposure doesn't count."""
    pixels = torch.from_numpy(images_u8.astype(np.float32))[:, None]
    pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="area")
    return (pixels - pixels.mean((1, 2, 3), keepdim=True)) / (pixels.std((1, 2, 3), keepdim=True) + 1.0)


def _worn(pixels: Tensor) -> Tensor:
    """Blurs some of a batch and adds noise."""
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(pixels), 1, 1, 1)
    return pixels * (1 - share) + soft * share + 0.1 * torch.rand(len(pixels), 1, 1, 1) * torch.randn_like(pixels)
