"""The places in a workspace where each stage reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every stage's output below one workspace root; the same names as the outs in dvc.yaml."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def corpus(self) -> Path:
        return self.root / "data" / "corpus"

    @property
    def vocabulary(self) -> Path:
        return self.root / "data" / "vocabulary"

    @property
    def prompts(self) -> Path:
        return self.root / "data" / "prompts"

    @property
    def prompt_ledger(self) -> Path:
        return self.root / ".medsynth" / "prompts.sqlite"

    @property
    def synthesis(self) -> Path:
        return self.root / "data" / "synthesis"

    @property
    def quality(self) -> Path:
        return self.root / "data" / "quality"

    @property
    def privacy(self) -> Path:
        return self.root / "data" / "privacy"

    @property
    def release(self) -> Path:
        return self.root / "data" / "release"

    @property
    def evaluation(self) -> Path:
        return self.root / "data" / "evaluation"

    @property
    def utility(self) -> Path:
        return self.root / "data" / "utility"

    @property
    def report(self) -> Path:
        return self.root / "data" / "report"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def classifier(self) -> Path:
        return self.models / "classifier"

    @property
    def judge(self) -> Path:
        return self.models / "judge"

    @property
    def vqgan(self) -> Path:
        return self.models / "vqgan"

    @property
    def alignment(self) -> Path:
        return self.models / "alignment"

    @property
    def llm(self) -> Path:
        return self.models / "llm"

    @property
    def metrics(self) -> Path:
        """Figures of every stage, in git, for ``dvc metrics`` and ``dvc plots``."""
        return self.root / "metrics"

    @property
    def checkpoints(self) -> Path:
        """Unfinished trainings; ignored by git and DVC."""
        return self.root / ".medsynth" / "checkpoints"

    @property
    def dataset(self) -> Path:
        """Where a release is checked out; ``dataset.dvc`` beside it is the pointer."""
        return self.root / "dataset"
