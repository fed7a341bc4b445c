"""Settings of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import PositiveInt

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Section
from medsynth_core.corpus.settings import LabelRule


class VocabularyConfig(Section):
    """Mining of anatomy and pathology terms."""

    min_studies: PositiveInt = 10
    """k-anonymity: a term seen in fewer patients never enters the vocabulary."""
    max_terms: PositiveInt = 500
    """At most this many terms of each kind, the commonest first."""


@dataclass(frozen=True)
class VocabularyParams(Params):
    """What stage ``vocabulary`` reads of params.yaml."""

    vocabulary: VocabularyConfig
    labels: Annotated[LabelRule, Param("corpus.labels")]
