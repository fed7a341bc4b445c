"""A DenseNet-121 of torchxrayvision, by its file."""

from __future__ import annotations

from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.evaluation.networks import as_pixels
from medsynth_core.models.torchxrayvision import XRayDenseNet

PLACE = "needed"


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features.

    Raises:
        InputError: the file is missing, or another network's.
    """
    return XRayFeatures(XRayDenseNet.load(file_at(place, paths)))


def check(place: str, paths: Paths) -> None:
    """Checks that the file is of such a network.

    Raises:
        InputError: it is missing, or another network's.
    """
    XRayDenseNet.load(file_at(place, paths))


class XRayFeatures(nn.Module):
    """The 1024 features of a DenseNet-121 of torchxrayvision."""

    def __init__(self, net: XRayDenseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_BHW: Tensor) -> Tensor:
        return self.net.features(as_pixels(images_BHW))
