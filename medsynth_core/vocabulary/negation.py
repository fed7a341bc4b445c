"""Negation and uncertainty with scope, in the manner of NegEx (Chapman et al. 2001), for radiology prose.

Triggers are sequences of folded words. A pre-trigger rules from its end to the next terminator; a post-trigger
back to the terminator before it. Pseudo-triggers ("no change") rule nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_PSEUDO = (
    "no change|no interval change|no significant change|no significant interval change|not significantly changed|"
    "not changed|no increase|no decrease|not only|without change|no definite change|no appreciable change|"
    "without significant change|no substantial change|not significantly increased|not certain if|gram negative"
)
_NEGATING_BEFORE = (
    "no|not|without|negative for|free of|clear of|absence of|absent|rule out|ruled out|no evidence of|never|neither|"
    "nor|none|no longer|fail to|lack of|resolution of|resolved|interval clearing of|exclude|denies|non|"
    "unremarkable for|has no|have no|clearing of|rather than"
)
_NEGATING_AFTER = (
    "is not seen|are not seen|not seen|not identified|not present|not visualized|not evident|not appreciated|"
    "not demonstrated|not detected|not noted|is absent|are absent|absent|unlikely|ruled out|has resolved|have resolved|"
    "resolved|has cleared|have cleared|is excluded|not apparent|is negative|are negative|is no longer|are no longer|"
    "not clearly seen|not definitely seen|not observed|has been removed|no longer seen|no longer identified"
)
_UNCERTAIN_BEFORE = (
    "may|might|possible|possibly|cannot exclude|can not exclude|cannot be excluded|questionable|question of|question|"
    "suspected|suspicious for|suspicion for|suspicion of|concern for|concerning for|could|cannot rule out|equivocal|"
    "versus|vs|perhaps|differential|not excluded|potentially|if there is|evaluate for|evaluation for|to exclude"
)
_UNCERTAIN_AFTER = (
    "cannot be excluded|can not be excluded|not excluded|cannot be ruled out|is possible|are possible|is suspected|"
    "is questioned|could be considered|is considered|not entirely excluded|is questionable|cannot entirely be excluded"
)
_TERMINATORS = (
    "but|however|although|though|except|except for|aside from|other than|apart from|which|there is|there are|yet|"
    "otherwise|:|secondary to|due to|because|status post|nevertheless|still|with stable|with unchanged|, stable|"
    ", unchanged|, mild|, small|, minimal|, moderate|, with"
)


def _table(text: str) -> dict[str, list[tuple[str, ...]]]:
    table: dict[str, list[tuple[str, ...]]] = {}
    for phrase in text.split("|"):
        words = tuple(phrase.split())
        table.setdefault(words[0], []).append(words)
    return {first: sorted(phrases, key=len, reverse=True) for first, phrases in table.items()}


_PSEUDO_TABLE = _table(_PSEUDO)
_TERMINATOR_TABLE = _table(_TERMINATORS)
_RULES = (
    ("negated", _table(_NEGATING_BEFORE), _table(_NEGATING_AFTER)),
    ("uncertain", _table(_UNCERTAIN_BEFORE), _table(_UNCERTAIN_AFTER)),
)


def scopes(words: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Returns (negated, uncertain), a flag a word.

    Args:
        words: folded words of one sentence.
    """
    flags = {"negated": [False] * len(words), "uncertain": [False] * len(words)}
    blocked = [False] * len(words)
    for start, end in _matches(words, _PSEUDO_TABLE):
        blocked[start:end] = [True] * (end - start)
    stops = sorted(start for start, _ in _matches(words, _TERMINATOR_TABLE))
    for name, before, after in _RULES:
        for start, _ in _matches(words, after):
            if not blocked[start]:
                low = max((stop for stop in stops if stop < start), default=-1) + 1
                _mark(flags[name], low, start)
        for start, end in _matches(words, before):
            if not blocked[start]:
                high = min((stop for stop in stops if stop >= end), default=len(words))
                _mark(flags[name], end, high)
    return flags["negated"], flags["uncertain"]


def _mark(flags: list[bool], start: int, end: int) -> None:
    flags[start:end] = [True] * max(0, end - start)


def _matches(words: Sequence[str], table: dict[str, list[tuple[str, ...]]]) -> Iterable[tuple[int, int]]:
    for start, word in enumerate(words):
        for phrase in table.get(word, ()):
            if tuple(words[start : start + len(phrase)]) == phrase:
                yield start, start + len(phrase)
                break
