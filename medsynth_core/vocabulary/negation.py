"""Negation and uncertainty with scope, in the manner of NegEx (Chapman et al. 2001), for radiology prose.

Triggers are sequences of folded words; adverbs between them don't matter ("is not definitely seen"). A
pre-trigger rules from its end to the next terminator, or to the clause that has a verb of its own ("no effusion,
the heart is enlarged"); a post-trigger rules back to where its clause begins. Pseudo-triggers ("no change") rule
nothing, and a negation inside an uncertain phrase ("cannot exclude") is part of that phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_PSEUDO = (
    "no change|no interval change|no significant change|no significant interval change|not changed|no increase|"
    "no decrease|not only|without change|no appreciable change|without significant change|no substantial change|"
    "not increased|not certain if|gram negative|not excluded|no interval increase|no interval decrease"
)
_NEGATING_BEFORE = (
    "no|not|without|negative for|free of|clear of|absence of|absent|ruled out|no evidence of|never|neither|nor|none|"
    "no longer|fail to|lack of|resolution of|resolved|interval clearing of|denies|unremarkable for|clearing of|"
    "nothing|argue against|rather than|instead of|unlikely to represent|unlikely represent|cleared of|devoid of"
)
_NEGATING_AFTER = (
    "is not seen|are not seen|not seen|not identified|not present|not visualized|not evident|not appreciated|"
    "not demonstrated|not detected|not noted|not shown|is absent|are absent|absent|unlikely|ruled out|has resolved|"
    "have resolved|resolved|has cleared|have cleared|is excluded|are excluded|not apparent|is negative|are negative|"
    "is no longer|are no longer|not observed|has been removed|no longer seen|no longer identified|not found|"
    "not visible|not suspected|is gone|: none|: no|: absent|: negative"
)
_UNCERTAIN_BEFORE = (
    "may|might|possible|possibly|cannot exclude|can not exclude|cannot be excluded|questionable|question of|question|"
    "suspected|suspicious for|suspicion for|suspicion of|concern for|concerning for|could|cannot rule out|"
    "can not rule out|rule out|equivocal|perhaps|differential|potentially|if there is|evaluate for|evaluation for|"
    "exclude|to identify|to assess for|to detect|detecting|less likely|history of|not excluded|worrisome for|?"
)
_UNCERTAIN_AFTER = (
    "cannot be excluded|can not be excluded|not excluded|not be excluded|cannot be ruled out|can not be ruled out|"
    "is possible|are possible|is suspected|is questioned|could be considered|is considered|is questionable|"
    "cannot be entirely excluded|less likely|?"
)
_TERMINATORS = (
    "but|however|although|though|except|except for|aside from|other than|apart from|which|there is|there are|yet|"
    "otherwise|:|secondary to|due to|because|status post|nevertheless|still|with stable|with unchanged|, stable|"
    ", unchanged|, mild|, small|, minimal|, moderate|, with|with small|with mild|with minimal|with moderate|"
    "with large|with left|with right|with bilateral"
)
_ADVERBS = frozenset(
    [
        "absolutely", "certainly", "clearly", "completely", "confidently", "convincingly", "currently", "definitely",
        "definitively", "entirely", "fully", "grossly", "largely", "longer", "readily", "reliably", "significantly",
        "well",
    ]
)  # fmt: skip
_VERBS = frozenset(["is", "are", "was", "were", "has", "have", "remain", "appear", "show", "demonstrate"])
_SEEING = frozenset(
    [
        "apparent", "appreciated", "demonstrated", "detected", "evident", "found", "identified", "noted", "observed",
        "present", "seen", "shown", "suggested", "suspected", "visible", "visualized",
    ]
)  # fmt: skip
_Table = dict[str, list[tuple[str, ...]]]


def _table(text: str) -> _Table:
    table: _Table = {}
    for phrase in text.split("|"):
        words = tuple(phrase.split())
        table.setdefault(words[0], []).append(words)
    return {first: sorted(phrases, key=len, reverse=True) for first, phrases in table.items()}


_PSEUDO_TABLE = _table(_PSEUDO)
_TERMINATOR_TABLE = _table(_TERMINATORS)
_NEGATION_TABLES = _table(_NEGATING_BEFORE), _table(_NEGATING_AFTER)
_UNCERTAINTY_TABLES = _table(_UNCERTAIN_BEFORE), _table(_UNCERTAIN_AFTER)


def scopes(words: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Returns (negated, uncertain), a flag a word.

    Args:
        words: folded words of one sentence.
    """
    stops = [start for start, _ in _matches(words, _TERMINATOR_TABLE)]
    hedges = [span for table in _UNCERTAINTY_TABLES for span in _matches(words, table)]
    blocked = [False] * len(words)
    for start, end in (*_matches(words, _PSEUDO_TABLE), *(span for span in hedges if span[1] - span[0] > 1)):
        blocked[start:end] = [True] * (end - start)
    nothing_blocked = [False] * len(words)
    return (
        _flags(words, stops, _NEGATION_TABLES, blocked),
        _flags(words, stops, _UNCERTAINTY_TABLES, nothing_blocked),
    )


def _flags(words: Sequence[str], stops: list[int], tables: tuple[_Table, _Table], blocked: list[bool]) -> list[bool]:
    flags = [False] * len(words)
    before, after = tables
    for start, _ in _matches(words, after):
        if not blocked[start]:
            low = _clause_start(words, max((stop + 1 for stop in stops if stop < start), default=0), start)
            flags[low:start] = [True] * (start - low)
    for start, end in _matches(words, before):
        if not blocked[start]:
            high = _clause_end(words, end, min((stop for stop in stops if stop >= end), default=len(words)))
            flags[end:high] = [True] * (high - end)
    return flags


def _clause_end(words: Sequence[str], low: int, high: int) -> int:
    """Returns where a clause with a verb of its own begins in ``words[low:high]``, or ``high``."""
    joint = None
    for position in range(low, high):
        word = words[position]
        if word in {",", "and"}:
            joint = position
        elif word in {"or", "nor"}:
            joint = None
        elif word in _VERBS and joint is not None:
            following = (w for w in words[position + 1 :] if w not in _ADVERBS and w not in {"been", "not"})
            if next(following, "") not in _SEEING:
                return joint
            joint = None
    return high


def _clause_start(words: Sequence[str], low: int, start: int) -> int:
    """Returns where the clause that ends at ``start`` begins, not before ``low``.

    A list ("effusion, edema and pneumothorax are not seen") is one clause; "the heart is large and no ..." is two;
    without "or" and plural, only what follows the last comma belongs ("cardiomegaly, effusion is not seen").
    """
    verb = None
    for position in range(low, start - 1):
        if words[position] in _VERBS:
            verb = position
    if verb is not None:
        joints = [i for i in range(verb, start) if words[i] in {",", "and"}]
        if joints:
            return joints[0] + 1
    plural = {"are", "have", "were"} & set(words[start - 1 : start + 1])
    if not plural and "or" not in words[low:start]:
        return max((i + 1 for i in range(low, start) if words[i] == ","), default=low)
    return low


def _matches(words: Sequence[str], table: _Table) -> Iterator[tuple[int, int]]:
    for start, word in enumerate(words):
        for phrase in table.get(word, ()):
            end = _phrase_end(words, start, phrase)
            if end is not None:
                yield start, end
                break


def _phrase_end(words: Sequence[str], start: int, phrase: tuple[str, ...]) -> int | None:
    """Returns the end of ``phrase`` at ``start``, adverbs between its words skipped, or None."""
    position = start
    for index, expected in enumerate(phrase):
        while index and position < len(words) and words[position] in _ADVERBS and words[position] != expected:
            position += 1
        if position >= len(words) or words[position] != expected:
            return None
        position += 1
    return position
