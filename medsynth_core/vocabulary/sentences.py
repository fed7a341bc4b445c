"""Sentences and folded words of a report."""

from __future__ import annotations

import re

from medsynth_core.vocabulary.ontology import fold

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\"'X_])|\n+|;\s+|(?<=[a-z]{3})\.(?=[A-Z])|(?:^|\s)\d{1,2}[.)]\s+(?=[A-Z])")
_LIST_NUMBER = re.compile(r"\d{1,2}[.)]")
_WORD = re.compile(r"[A-Za-z][A-Za-z]*(?:'s)?|\d+(?:\.\d+)?|[,:?]")


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a report; decimals, abbreviations and list numbers don't end one."""
    sentences: list[str] = []
    for part in _END.split(text):
        part = (part or "").strip()
        if not part or _LIST_NUMBER.fullmatch(part):
            continue
        if sentences and _ends_in_abbreviation(sentences[-1]):
            sentences[-1] += " " + part
        else:
            sentences.append(part)
    return sentences


def fold_words(sentence: str) -> list[str]:
    """Returns lower-case words with plurals folded; commas, colons and question marks are words of their own."""
    return [fold(word) for word in _WORD.findall(sentence)]


def _ends_in_abbreviation(sentence: str) -> bool:
    if not sentence.endswith("."):
        return False
    last = sentence[:-1].rsplit(maxsplit=1)[-1].lower() if sentence[:-1].strip() else ""
    return last in {"dr", "mr", "mrs", "ms", "vs", "approx", "e.g", "i.e"}
