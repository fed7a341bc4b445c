"""The texture encoder that nobody trained. It is loaded in a function: it is a default, and a check before a run needs
no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths

if TYPE_CHECKING:
    from torch import nn


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features."""
    from medsynth_core.models.texture import TextureEncoder

    return TextureEncoder()
