"""Image tokenizers, one a module of this package; a saved tokenizer's config.json names its module as ``kind``.

A module has a function ``load``, which returns the tokenizer of such a folder in evaluation mode. Whoever reads or
writes images as codes calls ``load_image_tokenizer`` and knows no more of them than ``ImageTokenizer``.

Shapes: B images, H x W pixels, T image tokens: the codes of ``levels`` levels, each of (H / downsampling)**2 latent
cells in rows. A level refines what those before it say of a cell.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from medsynth_core.errors import InputError
from medsynth_core.models.artifact import load_config


class ImageTokenizer(Protocol):
    """Turns images into codes and back."""

    @property
    def codes(self) -> int:
        """Distinct codes of all levels, K; each level has its own K / levels of them."""

    @property
    def levels(self) -> int:
        """Codes of a latent cell."""

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns codes, int64 [B, T] in [0, K), of pixels, float32 in [-1, 1]."""

    def decode(self, codes_BT: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W], clamped to [-1, 1]; the same codes give the same pixels."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves it as ``torch.nn.Module.to`` moves a module, and returns it."""


def load_image_tokenizer(folder: Path) -> ImageTokenizer:
    """Returns the saved image tokenizer, whatever its kind, in evaluation mode.

    Raises:
        InputError: the folder holds none, one of a kind that isn't known, or weights that don't fit its config.
    """
    kind = load_config(folder, "image tokenizer").get("kind")
    kinds = sorted(module.name for module in iter_modules(__path__))
    if kind not in kinds:
        raise InputError(f"{folder}: expected an image tokenizer, found kind {kind!r}; there are {', '.join(kinds)}")
    tokenizer: ImageTokenizer = import_module(f"{__name__}.{kind}").load(folder)
    return tokenizer
