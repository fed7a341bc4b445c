"""Networks whose features are compared, one a module; an entry of ``evaluation.extractors`` names one: ``NAME`` or
``NAME:PLACE``.

Each module has ``open_extractor(place: str, paths: Paths) -> nn.Module``; its network takes uint8 images [B, H, W] and
returns float32 [B, F]. Gray images are replicated to three channels where the network has three, and resized and
normalised as it asks. A module may have

- ``PLACE``, "needed" or "optional", where something stands after the colon; without it nothing may;
- ``check(place, paths)``, called before any work, which raises a MedsynthError where the network can't be opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths
from medsynth_core.config.entries import open_entry
from medsynth_core.evaluation.settings import EXTRACTORS

if TYPE_CHECKING:
    from torch import nn


def load_extractor(entry: str, paths: Paths) -> nn.Module:
    """Returns the network of one of ``evaluation.extractors``, in evaluation mode.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    net: nn.Module = open_entry(EXTRACTORS, entry, paths)
    return net.eval().requires_grad_(False)
