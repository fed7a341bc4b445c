"""Settings of evaluation, utility and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.plugins import Plugins
from medsynth_core.config.section import Count, Device, Section
from medsynth_core.models.settings import ClassifierConfig
from medsynth_core.training.settings import TrainingParams

EXTRACTORS = Plugins("medsynth_core.evaluation.extractors", setting="evaluation.extractors", function="open_extractor")
JUDGES = Plugins("medsynth_core.evaluation.judges", setting="evaluation.judges", function="open_judge")


class EvaluationConfig(Section):
    """Comparison of a release with the held-out real images (split test)."""

    extractors: tuple[str, ...] = ("judge", "texture")
    """Networks whose features are compared, modules of evaluation/extractors: judge, the labelling judge; texture,
    random filters that nobody trained, which see grain; classifier, the one that guided the VQ-GAN; inception, the
    FID's, with weights from torch's cache, or inception:FILE; torchxrayvision:FILE, a DenseNet-121 of theirs;
    transformers:NAME, an image encoder by name or folder (RAD-DINO, ...)."""
    judges: tuple[str, ...] = ("judge",)
    """Who looks for the prompted findings, modules of evaluation/judges: judge, the labelling judge, in pathologies and
    the places where they lie; torchxrayvision:FILE, in the pathologies that it knows."""
    max_images: PositiveInt = 2500
    """Images a side (synthetic, training, held-out), chosen at random when there are more. The features of all are held
    in memory."""
    min_images: Annotated[int, Field(ge=10)] = 20
    """Of fewer images, synthetic or real, no figure is given."""
    batch_size: PositiveInt = 64
    """Images read and encoded together."""
    neighbours: PositiveInt = 5
    """k of precision, recall, density and coverage."""
    kid_subsets: Annotated[int, Field(ge=2)] = 50
    """Random subsets over which KID is averaged."""
    kid_subset_size: PositiveInt = 1000
    """A subset has half the images, and no more than this."""
    similarity_pairs: PositiveInt = 100
    """Pairs of images a class at most whose MS-SSIM is taken."""
    map_images: PositiveInt = 1000
    """Images a side on the t-SNE map at most."""

    @field_validator("extractors", "judges")
    @classmethod
    def _known(cls, entries: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        networks = EXTRACTORS if info.field_name == "extractors" else JUDGES
        for entry in entries:
            networks.checked(entry.partition(":")[0])
        return entries

    @model_validator(mode="after")
    def _neighbours_exist(self) -> EvaluationConfig:
        if self.neighbours >= self.min_images:
            raise ValueError(f"neighbours={self.neighbours} needs min_images above it, found {self.min_images}")
        return self


UtilityArm = Literal[
    "real", "real, duplicated", "real, augmented", "synthetic", "real + synthetic", "real + synthetic, augmented",
    "synthetic, then real",
]  # fmt: skip


class UtilityConfig(Section):
    """What a release is worth to a trainer: classifiers trained on real images, on synthetic ones, on both, and on what
    a sceptic would try instead."""

    shares: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = ()
    """Shares of the real training patients that the classifiers have; none: it isn't measured, since it trains a
    classifier an arm, share, ratio and seed."""
    arms: tuple[UtilityArm, ...] = get_args(UtilityArm)
    """What is trained on. Duplicated: as many copies of the real images as synthetic ones would come; augmented: those,
    flipped, turned, scaled and with another grey curve."""
    ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Synthetic images for each real one, where they are mixed; none: all of the release."""
    rare: str | None = None
    """A pathology that is made rare: of the training images that have it only rare_films stay, and copies or synthetic
    images fill them up; null: none."""
    rare_films: PositiveInt = 20
    """Images of the rare pathology that stay."""
    external: str | None = None
    """A workspace of another source, with corpus and vocabulary, on all of whose images the classifiers are judged too;
    null: none."""
    network: Literal["own", "densenet121", "resnet50"] = "own"
    """own: the finding classifier's (models.classifier); else torchvision's of that name, untrained, at 224 pixels."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Repetitions, each with other patients, other synthetic images and other weights."""
    steps: PositiveInt = 240
    """Steps of each training."""
    max_images: PositiveInt = 20_000
    """Images of the release at most."""


class ReportConfig(Section):
    """The HTML page of a release."""

    gallery_images: PositiveInt = 96
    """Accepted images that it shows at most; fewer where they would make it heavy."""
    oracle_phantoms: Count = 3000
    """Fresh phantoms that the oracle learns from, which judges a phantom's images on the page: 64 or more; 0: none."""
    training_images: bool = False
    """Also write a page that shows the training image nearest to each, which the corpus' licence must allow; it stays
    in the workspace. The phantom's are always shown."""

    @field_validator("oracle_phantoms")
    @classmethod
    def _fill_a_batch(cls, n: int) -> int:
        if 0 < n < 64:
            raise ValueError("expected 64 or more, or 0 for no oracle")
        return n


@dataclass(frozen=True)
class EvaluationParams(Params):
    """What stage ``evaluation`` reads of params.yaml."""

    seed: int
    evaluation: Annotated[EvaluationConfig, Param(but=("batch_size",))]
    device: Annotated[Device, Param(changes_output=False)]


@dataclass(frozen=True)
class UtilityParams(TrainingParams):
    """What stage ``utility`` reads of params.yaml."""

    classifier: Annotated[ClassifierConfig, Param("models.classifier")]
    utility: UtilityConfig


@dataclass(frozen=True)
class ReportParams(Params):
    """What stage ``report`` reads of params.yaml."""

    seed: int
    report: ReportConfig
