"""Whether the images are as various as real films, in two spaces that nobody trained on labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medsynth_core.fidelity.compared import Side
from medsynth_core.fidelity.figures import COVERAGE, RECALL, FidelityFigure
from medsynth_core.fidelity.neighbours import neighbourhoods
from medsynth_core.fidelity.spaces import layout_places, texture_places

_NEIGHBOURS = 5


def diversity_figures(
    synthetic: Side, training: Side, real: Side, seed: int, device: torch.device
) -> Iterator[FidelityFigure]:
    """Yields recall and coverage of real films by the images, beside those by as many training originals, which are as
    various as can be: how large figures are depends on how many images there are."""
    n = min(len(synthetic), len(training))
    ours, best = synthetic.some(n, seed).images_u8, training.some(n, seed).images_u8
    for space, places in (("layout", layout_places), ("texture", texture_places(training.images_u8, device))):
        films = places(real.images_u8)
        found, bound = (neighbourhoods(films, places(images), _NEIGHBOURS) for images in (ours, best))
        for metric in (RECALL, COVERAGE):
            value, by_training = getattr(found, metric), getattr(bound, metric)
            yield FidelityFigure(metric, space, n, len(real), value=value, real=by_training)
