"""What the networks of several modules have in common, and what the evaluation makes of our own.

Shapes: images [B, H, W], features [B, F], terms [B, T].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.judge import Judge


def as_pixels(images_BHW: Tensor) -> Tensor:
    """Returns uint8 images as pixels, float32 [B, 1, H, W] in [-1, 1]."""
    return images_BHW[:, None].float() / 127.5 - 1.0


def trained_side(paths: Paths) -> int | None:
    """Returns the side of the images that a workspace's own networks learn from; None without a corpus."""
    return Corpus.open(paths["corpus"]).image_size if paths["corpus"].exists() else None


class FindingJudge(nn.Module):
    """Takes uint8 images [B, H, W] and returns by how much it finds each of its terms, float32 [B, T]; above 0: found.

    Attributes:
        terms: in the ontology's words, in their order.
    """

    terms: Sequence[str]


class ClassifierFeatures(nn.Module):
    """A finding classifier's last stage, averaged over places."""

    def __init__(self, net: FindingClassifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_BHW: Tensor) -> Tensor:
        return self.net.features(as_pixels(images_BHW))[-1].mean((2, 3))


class OwnJudge(FindingJudge):
    """The labelling judge: a term is found when the judge thinks it more likely than not, on either side."""

    def __init__(self, net: Judge) -> None:
        super().__init__()
        self.net = net
        self.terms = sorted({term for term, _ in net.labels})
        self._places = [[i for i, (of, _) in enumerate(net.labels) if of == term] for term in self.terms]

    def forward(self, images_BHW: Tensor) -> Tensor:
        logits = self.net(as_pixels(images_BHW))
        return torch.cat([logits[:, :0], *(logits[:, places].amax(1, keepdim=True) for places in self._places)], 1)
