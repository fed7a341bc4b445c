"""Networks that say of two images whether they are of one patient, one a module; an entry names one: ``NAME`` or
``NAME:PLACE``.

Each module has ``open_reidentifier(place: str, paths: Paths) -> Reidentifier``. As an extractor's
(``evaluation.extractors``), it may have ``PLACE``, and ``check(place, paths)``, called before any work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from medsynth_core.config import Paths
from medsynth_core.config.entries import open_entry
from medsynth_core.config.plugins import Plugins

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REIDENTIFIERS = Plugins(
    "medsynth_core.evaluation.reidentification", setting="re-identification", function="open_reidentifier"
)


class Reidentifier(Protocol):
    """A network for pairs, which encodes each image once; in evaluation mode, on a device of its own.

    Attributes:
        side: of the images that it takes.
        same_patient: a score above it means one patient; None where there is no such bound.
    """

    side: int
    same_patient: float | None

    def to(self, device: torch.device) -> Reidentifier:
        """Moves the network."""
        ...

    def encode(self, images_BHW: Tensor) -> Tensor:
        """Returns features float32 [B, F] of images uint8 [B, side, side]."""
        ...

    def scores(self, one_PF: Tensor, other_PF: Tensor) -> Tensor:
        """Returns of each pair of encoded images how much it looks like one patient, float32 [P], at most 1."""
        ...


def load_reidentifier(entry: str, paths: Paths) -> Reidentifier:
    """Returns the network of an entry.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    net: Reidentifier = open_entry(REIDENTIFIERS, entry, paths)
    return net
