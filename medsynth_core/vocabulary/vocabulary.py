"""The vocabularies of a corpus: terms with counts, and which findings are seen together."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medsynth_core.errors import InputError


class TermCount(BaseModel):
    """One term: in how many studies it is asserted, and in how many it is only denied.

    Attributes:
        parent: a broader term of the ontology, or None.
        wordings: other wordings of the ontology that the corpus uses for it, commonest first.
    """

    model_config = ConfigDict(frozen=True)
    term: str
    n_studies: int
    n_negated: int
    parent: str | None = None
    wordings: tuple[str, ...] = ()


class VariantCount(BaseModel):
    """A kind of a pathology that the corpus tells apart ("patchy opacity"); labels and requests name the parent."""

    model_config = ConfigDict(frozen=True)
    term: str
    parent: str
    n_studies: int


class FindingCount(BaseModel):
    """How many studies show a pathology at this place, side and severity."""

    model_config = ConfigDict(frozen=True)
    pathology: str
    anatomy: str | None
    side: str
    severity: str | None
    n: int


class PairCount(BaseModel):
    """How many studies show both pathologies (a <= b)."""

    model_config = ConfigDict(frozen=True)
    a: str
    b: str
    n: int


class Vocabulary(BaseModel):
    """What may leave the machine: terms and their counts, never text (contract C8).

    Every term, wording and variant is asserted in ``min_studies`` patients or more.

    Attributes:
        n_studies: mined; n_normal: of which without a positive finding.
        findings_a_study: studies by their number of pathologies ("1", "2", ...).
    """

    model_config = ConfigDict(frozen=True)
    n_studies: int
    n_normal: int
    min_studies: int
    anatomy: tuple[TermCount, ...]
    pathology: tuple[TermCount, ...]
    variants: tuple[VariantCount, ...] = ()
    findings: tuple[FindingCount, ...]
    pairs: tuple[PairCount, ...]
    findings_a_study: dict[str, int]

    def terms(self, kind: str) -> list[str]:
        """Returns the names of ``anatomy`` or ``pathology`` terms, commonest first."""
        return [count.term for count in (self.anatomy if kind == "anatomy" else self.pathology)]

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Returns a saved vocabulary.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{path}: not found; run `medsynth vocabulary` first") from error
        except ValueError as error:
            raise InputError(f"{path}: damaged vocabulary; run `medsynth vocabulary` again") from error
