"""Near-duplicate prompts by the Jaccard similarity of word trigrams, and how varied a set of prompts is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 64
_N = 3


def fold_text(text: str) -> str:
    """Returns the words of a prompt alone, so that two prompts that differ in punctuation are the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


class SeenTexts:
    """The accepted texts, against which each new one is held; memory is about 2 KB a text.

    Args:
        threshold: of the similarity, in (0, 1]; at 1 only equal texts are found.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # candidates are looked for a little below the threshold, since a sketch errs, and then compared exactly
        self._index = MinHashLSH(threshold=max(0.1, threshold - 0.1), num_perm=_PERMUTATIONS) if threshold < 1 else None
        self._texts: dict[str, str] = {}

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Returns the name and similarity of an accepted text that is too similar, or None."""
        folded = fold_text(text)
        if folded in self._texts:
            return self._texts[folded], 1.0
        if self._index is None:
            return None
        shingles = _shingles(folded)
        best: tuple[str, float] | None = None
        for other in self._index.query(_sketch(shingles)):
            theirs = _shingles(other)
            similarity = len(shingles & theirs) / len(shingles | theirs)
            if similarity >= self._threshold and (best is None or similarity > best[1]):
                best = self._texts[other], similarity
        return best

    def add(self, name: str, text: str) -> None:
        """Adds an accepted text."""
        folded = fold_text(text)
        self._texts[folded] = name
        if self._index is not None:
            self._index.insert(folded, _sketch(_shingles(folded)), check_duplication=False)


def distinct_ngrams(texts: Iterable[str], n: int) -> float:
    """Returns the share of word n-grams that are different ones (distinct-n of Li et al. 2016), in [0, 1]."""
    total, distinct = 0, set()
    for text in texts:
        words = fold_text(text).split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        total += len(grams)
        distinct.update(grams)
    return len(distinct) / total if total else 0.0


def _shingles(folded: str) -> frozenset[str]:
    words = folded.split()
    return frozenset(" ".join(words[i : i + _N]) for i in range(max(1, len(words) - _N + 1)))


def _sketch(shingles: frozenset[str]) -> MinHash:
    sketch = MinHash(num_perm=_PERMUTATIONS)
    sketch.update_batch([shingle.encode() for shingle in shingles])
    return sketch
