"""Whether a report is in English: the rules of mining are, and would read another language wrongly without a word.

Detectors that are trained on prose take a note of a few Latin words ("Bibasilar atelectasis, no effusion.") for one of
the Romance languages; small words that only one language has are surer.
"""

from __future__ import annotations

import re
from importlib import resources

import yaml

_ENGLISH = frozenset(
    [
        "the", "of", "is", "are", "was", "with", "and", "there", "no", "not", "without", "right", "left",
        "lung", "lungs", "heart", "normal", "clear", "small", "has", "have", "been", "seen", "evidence",
        "acute", "or", "at", "both", "stable", "unchanged", "chest", "mild", "large", "moderate", "bilateral",
        "size", "limits", "this", "that", "from", "which", "for", "may", "be", "unremarkable", "effusion",
        "effusions", "edema", "opacity", "line", "tube", "tip", "pleural", "negative", "free", "focal",
    ]
)  # fmt: skip
_OTHERS = {
    name: frozenset(words)
    for name, words in yaml.safe_load(
        resources.files("medsynth_core.corpus").joinpath("languages.yaml").read_text("utf-8")
    ).items()
}
_NOT_ENGLISH = frozenset[str]().union(*_OTHERS.values())
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_LOOKED_AT = 4000
"""Characters, which tell a language."""
_FEW = 6
"""Words of a text in which one of another language is enough."""


def other_language(text: str) -> str | None:
    """Returns the name of the language that a report is in, or None where that is English or can't be told.

    "another script" stands for the languages that aren't written in Latin letters.
    """
    text = text[:_LOOKED_AT].lower()
    words = _WORD.findall(text)
    if not words:
        return None
    if not text.isascii() and sum(_LATIN.match(word) is None for word in words) > len(words) / 2:
        return "another script"
    distinct = set(words)
    english = len(distinct & _ENGLISH)
    if len(distinct & _NOT_ENGLISH) <= english:
        return None
    name, found = max(((name, len(distinct & known)) for name, known in _OTHERS.items()), key=lambda each: each[1])
    enough = 1 if len(words) <= _FEW and english == 0 else 2
    return name if found >= enough and found > english else None
