"""Corpus readers, one a file, all yielding the same Study; ``open_corpus`` picks one by ``corpus.kind``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medsynth_core.corpus.records import BadRow, Study
from medsynth_core.corpus.settings import CorpusConfig


@dataclass(frozen=True)
class Source:
    """An opened corpus.

    Attributes:
        studies: yields studies, or the rows that can't be one.
        total: how many rows it yields.
        licence: what the source's terms are, for the dataset card.
    """

    studies: Iterator[Study | BadRow]
    total: int
    licence: str


def open_corpus(settings: CorpusConfig, seed: int) -> Source:
    """Returns the corpus that the settings name; files and columns are checked before anything is read.

    Args:
        seed: of the phantom.

    Raises:
        InputError: a file, folder or column is missing.
    """
    if settings.kind == "phantom":
        from medsynth_core.corpus.phantom import phantom_studies

        total = min(settings.n_studies, settings.max_studies or settings.n_studies)
        return Source(phantom_studies(seed, total, settings.image_size), total, "procedural phantom")
    if settings.kind == "openi":
        from medsynth_core.corpus.readers.openi import read_openi

        return read_openi(settings)
    from medsynth_core.corpus.readers.table import read_table

    return read_table(settings)
