"""The labelling judge. Networks are loaded in functions: it is the default, and a check before a run needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths

if TYPE_CHECKING:
    from torch import nn


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features.

    Raises:
        InputError: it isn't there.
    """
    from medsynth_core.evaluation.networks import ClassifierFeatures
    from medsynth_core.judging.calibrated import JUDGE
    from medsynth_core.models.classifier import FindingClassifier

    return ClassifierFeatures(FindingClassifier.load(paths["calibrate"] / JUDGE))
