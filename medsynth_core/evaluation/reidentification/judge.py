"""A stand-in: the cosine of two images' features by the labelling judge, who never learnt what a patient looks like.

Networks are loaded in functions: a check needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SIDE = 224
"""Of the images where no corpus tells what the judge learnt from."""


def open_reidentifier(place: str, paths: Paths) -> JudgeCosine:
    """Returns the stand-in.

    Raises:
        InputError: the workspace has no judge.
    """
    from medsynth_core.evaluation.extractors import load_extractor
    from medsynth_core.evaluation.networks import trained_side

    return JudgeCosine(load_extractor("judge", paths), trained_side(paths) or _SIDE)


class JudgeCosine:
    """Cosines in -1..1, of which none means "one patient"."""

    same_patient: float | None = None

    def __init__(self, net: nn.Module, side: int) -> None:
        self.net, self.side = net, side

    def to(self, device: torch.device) -> JudgeCosine:
        """Moves the judge."""
        self.net.to(device)
        return self

    def encode(self, images_BHW: Tensor) -> Tensor:
        """Returns features of norm 1, float32 [B, F]."""
        import torch

        with torch.inference_mode():
            return torch.nn.functional.normalize(self.net(images_BHW).float(), dim=-1)

    def scores(self, one_PF: Tensor, other_PF: Tensor) -> Tensor:
        """Returns cosines, float32 [P]."""
        return (one_PF * other_PF).sum(-1)
