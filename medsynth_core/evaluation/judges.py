"""Judges of findings: each takes uint8 images [B, H, W] and returns by how much it finds each of its terms, float32
[B, T]; above 0 is found."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.evaluation.extractors import as_pixels, load_torchxrayvision
from medsynth_core.judging.calibrated import load_judge as load_judge_of
from medsynth_core.models.judge import Judge
from medsynth_core.models.torchxrayvision import XRayDenseNet

log = logging.getLogger(__name__)


def load_judge(name: str, paths: Paths) -> OwnJudge | ExternalJudge:
    """Returns one of ``evaluation.judges``, in evaluation mode.

    Raises:
        InputError: its weights are missing, damaged, or of another network.
    """
    kind, _, place = name.partition(":")
    net: OwnJudge | ExternalJudge
    if kind == "judge":
        net = OwnJudge(load_judge_of(paths["calibrate"]))
    else:
        net = ExternalJudge(load_torchxrayvision(place, paths))
        if net.net.left_out:
            log.warning("%s: the ontology has no name for %s; left out", name, ", ".join(net.net.left_out))
    net.eval().requires_grad_(False)
    return net


class OwnJudge(nn.Module):
    """The labelling judge: a term is found when the judge thinks it more likely than not, on either side."""

    def __init__(self, net: Judge) -> None:
        super().__init__()
        self.net = net
        self.terms = sorted({term for term, _ in net.labels})
        self._places = [[i for i, (of, _) in enumerate(net.labels) if of == term] for term in self.terms]

    def forward(self, images_BHW: Tensor) -> Tensor:
        logits = self.net(as_pixels(images_BHW))
        return torch.cat([logits[:, :0], *(logits[:, places].amax(1, keepdim=True) for places in self._places)], 1)


class ExternalJudge(nn.Module):
    """A network of torchxrayvision: it knows pathologies alone, and no sides."""

    def __init__(self, net: XRayDenseNet) -> None:
        super().__init__()
        self.net = net
        self.terms = net.pathologies

    def forward(self, images_BHW: Tensor) -> Tensor:
        margins: Tensor = self.net(as_pixels(images_BHW))
        return margins
