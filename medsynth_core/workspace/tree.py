"""The whole tree: one pydantic model that is ``params.yaml`` (contract C1), composed of the rooms' sections."""

from __future__ import annotations

from pydantic import model_validator

from medsynth_core.config.section import Count, Device, Section
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.evaluation.settings import EvaluationConfig, ReportConfig, UtilityConfig
from medsynth_core.fidelity.settings import FidelityConfig
from medsynth_core.filters import QualityConfig
from medsynth_core.models.settings import ModelsConfig, grid_problem
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

    @model_validator(mode="after")
    def _grid_fits(self) -> Config:
        """A base's own config tells its downsampling: ``workspace/check.py`` reads it."""
        vqgan = self.models.vqgan
        if vqgan.base is None:
            whence = f"models.vqgan.channels has {len(vqgan.channels)} levels, its patch {vqgan.patch} pixels"
            problem = grid_problem(self.corpus.image_size, vqgan.downsampling, self.models.alignment, whence)
            if problem is not None:
                raise ValueError(problem)
        return self
