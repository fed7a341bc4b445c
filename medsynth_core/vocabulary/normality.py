"""Anatomy that a sentence calls normal: "the lungs are clear", "normal heart size", "no acute bony abnormality"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medsynth_core.vocabulary.negation import clause_start

_NORMAL = frozenset(["clear", "normal", "unremarkable", "intact", "negative", "sharp"])
_ENDS = frozenset([",", "and", "with", "in", "for", "of", "without", "but", "is", "are"])
_ABNORMALITY = frozenset(["abnormality", "process", "disease", "finding", "lesion"])
_NOTHING = re.compile(
    r"\b(?:normal|unremarkable|clear|negative|nad|nil|(?:no|without)(?: \w+){0,3} "
    r"(?:disease|process|abnormalit\w+|findings?|changes?|pathology|lesions?|infection))\b",
    re.IGNORECASE,
)
_REACH = 3
_LONGEST_DENIAL = 6


def says_normal(text: str) -> bool:
    """Returns whether a report says that there is nothing, ("No active disease") without a word of anatomy."""
    return _NOTHING.search(text) is not None


def normal_words(words: Sequence[str]) -> list[bool]:
    """Returns, a flag a word, what is said to be normal.

    Args:
        words: folded words of one sentence.
    """
    flags = [False] * len(words)
    for position, word in enumerate(words):
        if word in _NORMAL and not _is_qualified(words, position):
            low = max((i + 1 for i in range(position) if words[i] in {"but", "however", ":"}), default=0)
            low = clause_start(words, low, position)
            flags[low:position] = [True] * (position - low)
            for after in range(position + 1, min(len(words), position + 1 + _REACH)):
                if words[after] in _ENDS:
                    break
                flags[after] = True
        elif word in {"no", "without"}:
            end = next((i for i in range(position + 1, len(words)) if words[i] in _ABNORMALITY), len(words))
            if end - position <= _LONGEST_DENIAL:
                flags[position + 1 : end] = [True] * (end - position - 1)
    return flags


def _is_qualified(words: Sequence[str], position: int) -> bool:
    """Returns whether a word of normality is denied or bounded: "not clear", "upper limit of normal", "clear of"."""
    before = words[max(0, position - 3) : position]
    if {"not", "no", "nor", "otherwise", "above", "than"} & set(before) or (before and before[-1] == "of"):
        return True
    return (
        position + 1 < len(words) and words[position] in {"clear", "negative"} and words[position + 1] in {"of", "for"}
    )
