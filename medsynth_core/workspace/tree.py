"""The whole tree: one pydantic model that is ``params.yaml`` (contract C1), composed of the rooms' sections."""

from __future__ import annotations

from pydantic import model_validator

from medsynth_core.config.section import Count, Device, Section
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.evaluation.settings import EvaluationConfig, ReportConfig, UtilityConfig
from medsynth_core.fidelity.settings import FidelityConfig
from medsynth_core.filters import QualityConfig
from medsynth_core.models.settings import ModelsConfig
from medsynth_core.privacy.settings import PrivacyConfig
from medsynth_core.prompts.settings import PromptsConfig
from medsynth_core.release.settings import ReleaseConfig
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.synthesis.settings import RunnerConfig, SynthesisConfig
from medsynth_core.vocabulary.settings import VocabularyConfig


class Config(Section):
    """params.yaml, whole."""

    seed: Count = 0
    """Seeds the phantom, the split, training and prompt sampling."""
    device: Device = "auto"
    """auto takes a GPU when there is one."""
    corpus: CorpusConfig = CorpusConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    prompts: PromptsConfig = PromptsConfig()
    models: ModelsConfig = ModelsConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    quality: QualityConfig = QualityConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    fidelity: FidelityConfig = FidelityConfig()
    store: StoreConfig = StoreConfig()
    release: ReleaseConfig = ReleaseConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    utility: UtilityConfig = UtilityConfig()
    report: ReportConfig = ReportConfig()
    runner: RunnerConfig = RunnerConfig()

    @property
    def latent_side(self) -> int:
        """Side of the token grid; an image has its square of tokens."""
        return self.corpus.image_size // self.models.vqgan.downsampling

    @model_validator(mode="after")
    def _grid_fits(self) -> Config:
        if self.corpus.image_size % self.models.vqgan.downsampling or self.latent_side < 2:
            raise ValueError(
                f"corpus.image_size={self.corpus.image_size} can't be downsampled by "
                f"{self.models.vqgan.downsampling} (models.vqgan.channels has "
                f"{len(self.models.vqgan.channels)} levels, its patch {self.models.vqgan.patch} pixels)"
            )
        stages, wanted = len(self.models.alignment.image_channels), self.models.vqgan.downsampling.bit_length() - 1
        if stages != wanted:
            raise ValueError(
                f"models.alignment.image_channels has {stages} stages; its grid is the VQ-GAN's when it has {wanted}"
            )
        return self
