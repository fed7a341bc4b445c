"""Sentences and words of a report."""

from __future__ import annotations

import re

from medsynth_core.vocabulary.ontology import fold

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\"'X_])|\n+|;\s+|(?<=[a-z]{3})\.(?=[A-Z])|(?:^|\s)\d{1,2}[.)]\s+(?=[A-Z])")
_LIST_NUMBER = re.compile(r"\d{1,2}[.)]")
_WORD = re.compile(r"[A-Za-z][A-Za-z]*(?:'s)?|\d+(?:\.\d+)?|[,:?()]")
_SHORT = {
    " : ": r"\s-+\s",
    "without": r"\b[wW]/[oO]\b",
    "evidence of": r"\b[eE]/[oO]\b",
    "with ": r"\b[wW]/\s?",
    "status post": r"\b[sS]/[pP]\b",
    "rule out": r"\b[rR]/[oO]\b",
    "consistent with": r"\b[cC]/[wW]\b",
    "bilateral": r"\b[bB](?:/[lL]\b|ilat\b\.?)",
    "right": r"\bRt\b\.?|\brt\.|\bR(?=\s+[a-z])|\(R\)",
    "left": r"\bLt\b\.?|\blt\.|\bL(?=\s+[a-z])|\(L\)",
    "versus": r"\b[vV]s\b\.?",
    "cannot": r"\b[cC]an not\b",
    "negative": r"\b[nN]eg\b\.?",
    "possible": r"\b[pP]oss\b\.?",
}
"""Abbreviations of prose; those of anatomy and findings are synonyms in the ontology."""
_ANY_SHORT = re.compile("|".join(f"({pattern})" for pattern in _SHORT.values()))
_LONG = tuple(_SHORT)
_LOBES = {
    "rul": ("right", "upper", "lobe"),
    "rml": ("right", "middle", "lobe"),
    "rll": ("right", "lower", "lobe"),
    "lul": ("left", "upper", "lobe"),
    "lll": ("left", "lower", "lobe"),
}


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a report; decimals, abbreviations and list numbers don't end one."""
    sentences: list[str] = []
    for part in _END.split(text):
        part = (part or "").strip()
        if not part or _LIST_NUMBER.fullmatch(part):
            continue
        if sentences and (sentences[-1] == "?" or _ends_in_abbreviation(sentences[-1])):
            sentences[-1] += " " + part
        else:
            sentences.append(part)
    return sentences


def spell_out(sentence: str) -> str:
    """Returns a sentence with the abbreviations of prose in full: ``w/o``, ``s/p``, ``b/l``, ``Rt.``, ``L base``."""
    return _ANY_SHORT.sub(lambda found: _LONG[(found.lastindex or 1) - 1], sentence)


def split_words(sentence: str) -> list[str]:
    """Returns the words of a sentence, lobes in full (``RLL``); commas, colons, brackets and ``?`` are words too."""
    words: list[str] = []
    for word in _WORD.findall(sentence):
        words.extend(_LOBES.get(word.lower(), (word,)))
    return words


def fold_words(words: list[str]) -> list[str]:
    """Returns the words in lower case, plurals folded."""
    return [fold(word) for word in words]


def _ends_in_abbreviation(sentence: str) -> bool:
    if not sentence.endswith("."):
        return False
    last = sentence[:-1].rsplit(maxsplit=1)[-1].lower() if sentence[:-1].strip() else ""
    return last in {"dr", "mr", "mrs", "ms", "vs", "approx", "e.g", "i.e", "rt", "lt", "bilat", "neg", "poss"}
