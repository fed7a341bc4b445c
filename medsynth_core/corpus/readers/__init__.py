"""Corpus readers, one a module, all yielding the same Study; ``corpus.kind`` is the name of one.

Each has ``open_source(config: CorpusConfig, seed: int) -> Source``, which checks files and columns before anything is
read, and may have ``recognise(place: Path) -> Recognised | None``, which says what a folder or file seems to be.
"""

from __future__ import annotations

from medsynth_core.corpus.records import Source
from medsynth_core.corpus.settings import READERS, CorpusConfig


def open_corpus(config: CorpusConfig, seed: int) -> Source:
    """Returns the corpus that the settings name.

    Args:
        seed: of a corpus that is drawn.

    Raises:
        InputError: a file, folder or column is missing.
    """
    source: Source = READERS.open(config.kind, config, seed)
    return source
