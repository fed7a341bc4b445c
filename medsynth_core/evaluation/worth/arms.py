"""What classifiers are trained on, to tell what synthetic images add from what copies of real ones would add.

All arms take the same steps of the same size. A sceptic's two are *duplicated*, since a larger set may help by its size
alone, and *augmented*, since a flip and a turn cost nothing (Pink and Sykes, PMLR 318, 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsynth_core.models.pixels import to_inputs


@dataclass(frozen=True)
class Images:
    """Images with their pathologies.

    Attributes:
        pixels_NHW: uint8.
        truth_NL: float32, 1 where an image has a pathology.
    """

    pixels_NHW: npt.NDArray[np.uint8]
    truth_NL: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pixels_NHW)

    def __add__(self, other: Images) -> Images:
        return Images(
            np.concatenate([self.pixels_NHW, other.pixels_NHW]), np.concatenate([self.truth_NL, other.truth_NL])
        )

    def take(self, picks: npt.NDArray[np.int64]) -> Images:
        """Returns some of them."""
        return Images(self.pixels_NHW[picks], self.truth_NL[picks])

    def repeated(self, n: int) -> Images:
        """Returns ``n`` of them, each as often as the others or once more."""
        return self.take(np.arange(n, dtype=np.int64) % len(self))

    def inputs(self, picks: npt.NDArray[np.int64] | slice, device: torch.device) -> Tensor:
        """Returns pixels on a device, float32 [n, 1, H, W] in [-1, 1]."""
        return to_inputs(self.pixels_NHW[picks], device)


@dataclass(frozen=True)
class Given:
    """What an arm may take.

    Attributes:
        real: images of real patients.
        copies: of them, as many as there are synthetic images to mix in.
        made: synthetic images to mix in.
        every: all synthetic images.
    """

    real: Images
    copies: Images
    made: Images
    every: Images


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes:
        steps, rate: of the training's, as shares.
        augmented: whether images are changed at random in each step.
    """

    images: Images
    augmented: bool = False
    steps: float = 1.0
    rate: float = 1.0


@dataclass(frozen=True)
class Arm:
    """One thing to train on.

    Attributes:
        phases: what of the given it learns from, one after the other.
        real: whether it has real images.
        mixes: whether it mixes synthetic images in.
        copies: whether it has copies of real ones.
        fills: whether it can fill up a finding that is rare.
    """

    name: str
    phases: Callable[[Given], tuple[Phase, ...]]
    real: bool = True
    mixes: bool = False
    copies: bool = False
    fills: bool = True


ARMS = (
    Arm("real", lambda given: (Phase(given.real),)),
    Arm("real, duplicated", lambda given: (Phase(given.real + given.copies),), copies=True),
    Arm("real, augmented", lambda given: (Phase(given.real + given.copies, augmented=True),), copies=True),
    Arm("synthetic", lambda given: (Phase(given.every),), real=False, fills=False),
    Arm("real + synthetic", lambda given: (Phase(given.real + given.made),), mixes=True),
    Arm("real + synthetic, augmented", lambda given: (Phase(given.real + given.made, augmented=True),), mixes=True),
    Arm(
        "synthetic, then real",
        lambda given: (Phase(given.every, steps=0.5), Phase(given.real, steps=0.5, rate=0.25)),
        fills=False,
    ),
)
BASELINES = ("real", "real, duplicated", "real, augmented")
"""What the others are held against, by the same seeds."""
