"""The places in a workspace where stages read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medsynth_core.hashing import DigestCache


@dataclass(frozen=True)
class Paths:
    """What lies where below one workspace root; ``paths["corpus"]`` is the main output of stage ``corpus``.

    Attributes:
        places: of the stages' outputs. Those of models lie elsewhere when ``models.path`` says so.
    """

    root: Path
    places: Mapping[str, Path]

    def __getitem__(self, stage: str) -> Path:
        return self.places[stage]

    def digest(self, stage: str) -> str:
        """Returns the digest of a stage's output: names and contents.

        Raises:
            InputError: it isn't there.
        """
        return self.digests.tree(self[stage])

    @cached_property
    def digests(self) -> DigestCache:
        """Digests of files that were hashed before; ignored by git and DVC."""
        return DigestCache(self.root / ".medsynth" / "digests.sqlite")

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def prompt_ledger(self) -> Path:
        return self.root / ".medsynth" / "prompts.sqlite"

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
