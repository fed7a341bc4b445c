"""Reader of the built-in phantom, which is drawn as it is read."""

from __future__ import annotations

from medsynth_core.corpus.phantom import phantom_studies
from medsynth_core.corpus.records import Source
from medsynth_core.corpus.settings import CorpusConfig


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns ``corpus.n_studies`` phantoms."""
    total = min(config.n_studies, config.max_studies or config.n_studies)
    return Source(phantom_studies(seed, total, config.image_size), total, "procedural phantom", drawn=True)
