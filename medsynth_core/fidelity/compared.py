"""Three sides compared: real films, the same as the tokenizer renders them, and the accepted images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from medsynth_core.chance import share_with_interval
from medsynth_core.fidelity.figures import FIDELITY, TOLD_APART, FidelityFigure
from medsynth_core.fidelity.spaces import Range
from medsynth_core.fidelity.told_apart import FOLDS, by_network, by_spectrum
from medsynth_core.filters.thumbnails import Images
from medsynth_core.random import stream

_COMPARED = (("synthetic", "real"), ("rendered", "real"), ("synthetic", "rendered"))
"""The whole, the tokenizer's part, the language model's."""
_JUDGED = ("synthetic", "rendered")
_GUESS = 0.5
_FEWEST_GROUPS = 2 * max(FOLDS.values())


@dataclass(frozen=True)
class Side:
    """Images uint8 [N, H, W] with the patient or prompt of each."""

    images_u8: Images
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.groups)

    def some(self, most: int, seed: int) -> Side:
        """Returns up to ``most`` images, the same places of any side of as many."""
        chosen = np.sort(stream(seed, "fidelity.some").permutation(len(self))[:most])
        return Side(self.images_u8[chosen], [self.groups[place] for place in chosen])


def told_apart_figures(sides: dict[str, Side], most: int, seed: int, device: torch.device) -> Iterator[FidelityFigure]:
    """Yields how well images are told from real films, renderings from films and images from renderings.

    Args:
        sides: synthetic, real and rendered.
        most: images a side.
    """
    some = {name: side.some(most, seed) for name, side in sides.items()}
    for name, other in _COMPARED:
        ours, theirs = some[name], some[other]
        told = partial(FidelityFigure, TOLD_APART, n=len(ours), n_held_out=len(theirs), side=name, against=other)
        groups = [*ours.groups, *theirs.groups]
        if min(len(set(side.groups)) for side in (ours, theirs)) < _FEWEST_GROUPS:
            reason = f"fewer than {_FEWEST_GROUPS} prompts or patients"
            yield from (told(space, reason=reason) for space in FOLDS)
            continue
        images = ours.images_u8, theirs.images_u8, groups, seed
        for space, (value, low, high) in (("spectrum", by_spectrum(*images)), ("network", by_network(*images, device))):
            yield told(space, value=value, low=low, high=high, real=_GUESS)


def fidelity_figures(sides: dict[str, Side], ranges: Sequence[Range]) -> Iterator[FidelityFigure]:
    """Yields the share of images and of renderings that lie within the range of real films, in each space."""
    for each in ranges:
        shares = {name: share_with_interval(each.holds(side.images_u8)) for name, side in sides.items()}
        for name in _JUDGED:
            n = len(sides[name]), len(sides["real"])
            yield FidelityFigure(FIDELITY, each.space, *n, *shares[name], *shares["real"], side=name)
