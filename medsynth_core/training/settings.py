"""What each training reads of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Device, Precision, Tracker
from medsynth_core.models.settings import AlignmentConfig, ClassifierConfig, LLMConfig, SegmenterConfig, VQGANConfig


@dataclass(frozen=True)
class TrainingParams(Params):
    """What every training reads."""

    seed: int
    precision: Annotated[Precision, Param("models.precision")]
    device: Annotated[Device, Param(changes_output=False)]
    tracker: Annotated[Tracker | None, Param("models.tracker", changes_output=False)]


@dataclass(frozen=True)
class ClassifierParams(TrainingParams):
    """What stage ``classifier`` reads of params.yaml."""

    classifier: Annotated[ClassifierConfig, Param("models.classifier")]
    min_studies: Annotated[int, Param("vocabulary.min_studies")]


@dataclass(frozen=True)
class JudgeParams(TrainingParams):
    """What stage ``judge`` reads of params.yaml.

    Attributes:
        judge_fraction: named when there are no patients; what it decides is in the corpus.
    """

    judge: Annotated[ClassifierConfig, Param("models.judge")]
    segmenter: Annotated[SegmenterConfig, Param("models.segmenter")]
    min_studies: Annotated[int, Param("vocabulary.min_studies")]
    judge_fraction: Annotated[float, Param("corpus.judge_fraction", changes_output=False)]


@dataclass(frozen=True)
class VQGANParams(TrainingParams):
    """What stage ``vqgan`` reads of params.yaml."""

    vqgan: Annotated[VQGANConfig, Param("models.vqgan")]


@dataclass(frozen=True)
class AlignmentParams(TrainingParams):
    """What stage ``alignment`` reads of params.yaml."""

    alignment: Annotated[AlignmentConfig, Param("models.alignment")]
    min_studies: Annotated[int, Param("vocabulary.min_studies")]


@dataclass(frozen=True)
class LLMParams(TrainingParams):
    """What stage ``llm`` reads of params.yaml."""

    llm: Annotated[LLMConfig, Param("models.llm")]


@dataclass(frozen=True)
class CalibrateParams(Params):
    """What stage ``calibrate`` reads of params.yaml: quantiles aren't among it, since what is kept are the scores."""

    device: Annotated[Device, Param(changes_output=False)]
