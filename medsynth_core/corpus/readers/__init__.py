"""Corpus readers, one a module, all yielding the same Study; ``corpus.kind`` is the name of one.

Each has ``open_source(config: CorpusConfig, seed: int) -> Source``, which checks files and columns before anything is
read, and may have ``recognise(place: Path) -> Recognised | None``, which says what a folder or file seems to be.
"""

from __future__ import annotations

from medsynth_core.corpus.places import place_of, unpacking
from medsynth_core.corpus.records import Recognised, Source
from medsynth_core.corpus.settings import READERS, CorpusConfig
from medsynth_core.errors import InputError


def open_corpus(config: CorpusConfig, seed: int) -> Source:
    """Returns the corpus that the settings name.

    Args:
        seed: of a corpus that is drawn.

    Raises:
        InputError: a file, folder or column is missing.
    """
    source: Source = READERS.open(config.kind, config, seed)
    return source


def recognised(named: str) -> Recognised:
    """Returns what a folder, file, archive or place on S3 seems to be.

    Raises:
        InputError: it isn't there, or is nothing that a reader knows.
        StoreError, TransientError: the bucket can't be read.
    """
    place = place_of(named)
    if not place.exists():
        raise InputError(f"{place}: not found")
    seen = [READERS.ask(name, "recognise", place) for name in READERS.names()]
    best = min((each for each in seen if each is not None), key=lambda each: each.rank, default=None)
    if best is None:
        known = ", ".join(READERS.names())
        raise InputError(
            f"{place}: no layout that is known{unpacking(place)} ({known}); a CSV or Parquet table of image paths "
            f"with reports or findings is the least that is needed"
        )
    return best  # type: ignore[no-any-return]
