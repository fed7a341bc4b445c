"""The finding classifier that guided the VQ-GAN."""

from __future__ import annotations

from torch import nn

from medsynth_core.config import Paths
from medsynth_core.evaluation.networks import ClassifierFeatures
from medsynth_core.models.classifier import FindingClassifier


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features.

    Raises:
        InputError: it isn't there.
    """
    return ClassifierFeatures(FindingClassifier.load(paths["classifier"]))
