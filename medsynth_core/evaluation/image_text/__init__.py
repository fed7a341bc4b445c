"""Pairs of encoders that put images and texts into one space, one a module; an entry names one: ``NAME`` or
``NAME:PLACE``.

Each module has ``open_pair(place: str, paths: Paths) -> ImageTextPair``. As an extractor's (``evaluation.extractors``),
it may have ``PLACE``, and ``check(place, paths)``, called before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from medsynth_core.config import Paths
from medsynth_core.config.entries import open_entry
from medsynth_core.config.plugins import Plugins

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

PAIRS = Plugins("medsynth_core.evaluation.image_text", setting="image-text pair", function="open_pair")


class ImageTextPair(Protocol):
    """Encoders of images and of texts whose dot product is a cosine; in evaluation mode, on a device of its own."""

    def to(self, device: torch.device) -> ImageTextPair:
        """Moves both encoders."""
        ...

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Returns features float32 [B, D] of norm 1 of images of mode L, of any size."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns features float32 [B, D] of norm 1."""
        ...


def load_pair(entry: str, paths: Paths) -> ImageTextPair:
    """Returns the encoders of an entry.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    pair: ImageTextPair = open_entry(PAIRS, entry, paths)
    return pair
