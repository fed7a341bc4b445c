"""The workspace's own alignment encoders: the whole image against the whole text.

They guided the generator, whose images they therefore flatter. Networks are loaded in functions: a check needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medsynth_core.config import Paths

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from medsynth_core.models.alignment import AlignmentModel


def open_pair(place: str, paths: Paths) -> OwnPair:
    """Returns the encoders.

    Raises:
        InputError: the workspace has no alignment model.
    """
    from medsynth_core.models.alignment import AlignmentModel

    return OwnPair(AlignmentModel.load(paths["alignment"]))


class OwnPair:
    """The global features of an ``AlignmentModel``."""

    def __init__(self, model: AlignmentModel) -> None:
        self.model = model.eval()
        self._side = model.side * 2 ** len(model.config.image_channels)

    def to(self, device: torch.device) -> OwnPair:
        """Moves the model."""
        self.model.to(device)
        return self

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Returns float32 [B, D], images resized to the side that the model was trained on."""
        import numpy as np
        import torch
        from PIL.Image import Resampling

        from medsynth_core.models.pixels import to_inputs

        size = (self._side, self._side)
        squares = np.stack([np.asarray(image.resize(size, Resampling.BILINEAR)) for image in images])
        with torch.inference_mode():
            return self.model.encode_patches(to_inputs(squares, self.model.device)).global_BD

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns float32 [B, D] of texts without de-identification marks, as the model learnt them."""
        import torch

        from medsynth_core.corpus.marks import strip_marks

        with torch.inference_mode():
            return self.model.encode_words([strip_marks(text) for text in texts]).global_TD
