"""A DenseNet-121 of torchxrayvision, by its file: it knows pathologies alone, and no sides."""

from __future__ import annotations

import logging

from torch import Tensor

from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.evaluation.networks import FindingJudge, as_pixels
from medsynth_core.models.torchxrayvision import XRayDenseNet

log = logging.getLogger(__name__)

PLACE = "needed"


def open_judge(place: str, paths: Paths) -> FindingJudge:
    """Returns the network of the file.

    Raises:
        InputError: it is missing, or another network's.
    """
    net = XRayDenseNet.load(file_at(place, paths))
    if net.left_out:
        log.warning("torchxrayvision:%s: the ontology has no name for %s; left out", place, ", ".join(net.left_out))
    return ExternalJudge(net)


def check(place: str, paths: Paths) -> None:
    """Checks that the file is of such a network.

    Raises:
        InputError: it is missing, or another network's.
    """
    XRayDenseNet.load(file_at(place, paths))


class ExternalJudge(FindingJudge):
    """By how much each logit is above its operating point."""

    def __init__(self, net: XRayDenseNet) -> None:
        super().__init__()
        self.net = net
        self.terms = net.pathologies

    def forward(self, images_BHW: Tensor) -> Tensor:
        margins: Tensor = self.net(as_pixels(images_BHW))
        return margins
