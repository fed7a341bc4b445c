"""Side, severity and place of a finding, linked by nearness within its part of the sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medsynth_core.vocabulary.ontology import Term, load_ontology
from medsynth_core.vocabulary.spans import Span

_SIDES = {
    **dict.fromkeys(["left", "leftward", "lingula", "lingular"], "left"),
    "right": "right",
    "rightward": "right",
    **dict.fromkeys(["bilateral", "bilaterally", "both", "bibasilar", "biapical", "bibasal"], "bilateral"),
}
_SEVERITIES = {
    word: severity
    for severity, words in {
        "mild": "mild mildly minimal minimally small sm tiny slight slightly trace subtle minor borderline "
        "faint little",
        "moderate": "moderate moderately mod",
        "severe": "severe severely sev large lg big marked markedly extensive massive gross "
        "significant significantly advanced",
    }.items()
    for word in words.split()
}
_SEVERITY = rf"(?:{'|'.join(_SEVERITIES)})"
_PLACE = (
    "(?:sided|base|apex|lung|lobe|upper|lower|mid|middle|zone|field|region|lateral|medial|basilar|basal|apical|hilum|"
    "hilar|perihilar|costophrenic|hemithorax|side|suprahilar|infrahilar|retrocardiac)"
)
_HOW_IT_WENT = (
    "(?:unchanged|stable|similar|improved|improving|increased|increasing|decreased|decreasing|worse|worsened|better|"
    "larger|smaller|new|resolving|persistent|present|seen)"
)
"""What may be said of a finding on one side before the other side is named."""
_PLACE_WORD = re.compile(_PLACE)
_AT = frozenset(["in", "at", "on", "of"])
_SIDED = "(?:left|right|lingula|lingular|middle)"
_BOTH_SIDES = re.compile(
    rf"\b{_SIDED}(?: {_PLACE}){{0,3}} (?:(?:and|as well as|(?:greater|more|larger|worse|less) than)(?: in| at| on)?"
    rf"|(?:and|but)(?: \w+ly)? {_HOW_IT_WENT} (?:in|at|on)|(?=lingula))(?: ?the| ?an?)?(?: ?{_SEVERITY})? ?{_SIDED}\b"
)
_EACH_BEFORE = re.compile(
    rf"({_SEVERITY})(?: \w+)? (left|right)(?: sided)? (?:and|,)(?: an?| the)? "
    rf"({_SEVERITY})(?: \w+)? (left|right)(?: sided)?(?: \w+)?$"
)
_ON = rf"({_SEVERITY}) (?:on|at|in)(?: the)? (left|right)"
_EACH_AFTER = re.compile(rf"(?:[,:(]|is|are) ?{_ON}(?: \w+)?(?: ,)? (?:and|,) ?{_ON}")
_OTHER = r"(?:on|in|at)?(?: ?the)? ?(left|right)(?: sided?| base| apex)?(?: one)?(?: is| are| remain)?"
_EACH_IN_TURN = re.compile(
    rf"(?:(?:on|in|at)(?: the)? (left|right)(?: side| base| apex)? )?(?:is|are|remain|look|measure)"
    rf"(?: now| still| \w+ly)? ({_SEVERITY})(?: in size)?(?: ,)?(?: and| while| whereas| but)?"
    rf"(?: that| those| the one)? {_OTHER}(?: now| still| \w+ly)? ({_SEVERITY})(?= in size| and| but| with| [,):]|$)"
)
"""Parts in statements of their own: "the effusion on the left is moderate, that on the right is small"."""
_SIDE_LAST = re.compile(rf"(left|right)(?: sided)?(?: {_PLACE})?$")
_APART_FROM = (["apart", "from"], ["except", "for"], ["other", "than"])
_APART = frozenset([",", "(", ":"])
_SIDE_FIRST = re.compile(
    rf"(?:[,:(] ?)?(?:on (?:the )?)?(left|right)(?: [:(])? ({_SEVERITY})(?: \))?(?: ,| ;| and)?(?: on(?: the)?)? "
    rf"(left|right)(?: [:(])? ({_SEVERITY})"
)
_NOW = re.compile(
    rf"\b(?:from {_SEVERITY} to|(?:now|currently)(?: only| very)?|became|become"
    rf"|(?:reduced|decreased|increased|shrunk|grown) to)(?: an?)? ({_SEVERITY})\b"
)
_COMING_TO = frozenset(
    ["from", "now", "currently", "became", "become", "reduced", "decreased", "increased", "shrunk", "grown"]
)  # fmt: skip
"""Without one of these, no sentence says so."""
_THEN = frozenset(["previously", "formerly", "initially", "once"])
_TOGETHER = frozenset(["associated", "accompanying", "adjacent", "ipsilateral", "overlying", "underlying"])
"""What says that a finding is where the one before it is."""
_LEADING = frozenset(
    [
        "with", "reflect", "reflecting", "represent", "representing", "likely", "probable", "probably", "suggest",
        "suggesting", "suggestive", "containing", "consistent", "compatible", "keeping", "combination", "from", "by",
    ]
)  # fmt: skip
"""What leads on from where something lies to what it is."""
_COPULAS = frozenset(["is", "are", "was", "were", "remain", "appear", ":"])
_ATTRIBUTES = frozenset(["side", "size", "severity", "grade", "distribution"])
_ASIDE = _ATTRIBUTES | _SIDES.keys()
_BETWEEN = _ATTRIBUTES | frozenset(
    [
        "now", "also", "again", "still", "probably", "likely", "very", "quite", "relatively", "only", "currently", "of",
        ":",
    ]
)  # fmt: skip
_COURSE = frozenset(
    ["improvement", "change", "increase", "decrease", "worsening", "resolution", "progression", "clearing", "reduction",
     "interval", "improved", "decreased", "worsened", "changed", "progressed", "resolved", "improving", "worsening",
     "better", "worse", "rotation", "motion", "limitation", "limited", "rotated"]
)  # fmt: skip
"""What a word of degree may be said of instead: "significant improvement"."""
_MOVED = frozenset(["shift", "shifted", "displacement", "displaced", "deviation", "deviated", "pushed", "pulled"])
"""What is said of the mediastinum and the trachea, with where to."""
_REACH_BEFORE = 6
_REACH_AFTER = 8


def said_sides(words: Sequence[str], findings: Sequence[Span] = ()) -> list[str | None]:
    """Returns the side that each word says; "left and right" and "left greater than right" say bilateral, but not where
    the latter begins another of the findings ("opacity at the left base and right effusion")."""
    sides = [_SIDES.get(word) for word in words]
    if "middle" in words:
        for position in range(1, len(words) - 1):
            if words[position : position + 2] == ["middle", "lobe"] and sides[position - 1] is None:
                sides[position] = "right"
    if not _MOVED.isdisjoint(words):
        _take_away_directions(words, sides)
    if "left" in sides and "right" in sides:
        text = " ".join(words)
        for match in _BOTH_SIDES.finditer(text):
            start = text.count(" ", 0, match.start())
            end = start + match.group().count(" ") + 1
            if sides[start] == sides[end - 1] or _begins_another(words, start, end, findings):
                continue
            for position in range(start, end):
                sides[position] = "bilateral" if sides[position] else None
    return sides


def _begins_another(words: Sequence[str], start: int, end: int, findings: Sequence[Span]) -> bool:
    """Returns whether the last of two sides at words [start, end) is that of another finding than the first, which is
    said to be in, at or on its place."""
    if _AT.isdisjoint(words[max(0, start - 2) : start]):
        return False
    while end < len(words) and _PLACE_WORD.fullmatch(words[end]):
        end += 1
    return any(finding.described <= end <= finding.start for finding in findings)


def _take_away_directions(words: Sequence[str], sides: list[str | None]) -> None:
    """Takes away the sides that something is moved to ("shift of the mediastinum to the right")."""
    for moved in (i for i, word in enumerate(words) if word in _MOVED):
        to = next(
            (i for i in range(moved + 1, min(moved + _REACH_BEFORE, len(words))) if words[i] in {"to", "towards"}), None
        )
        if to is not None:
            sides[to + 1 : to + 3] = [None] * len(sides[to + 1 : to + 3])


def said_severities(words: Sequence[str]) -> list[str | None]:
    """Returns the severity that each word says: mild, moderate, severe, or None; not one that is past."""
    said = [
        None if following in _COURSE else _SEVERITIES.get(word)
        for word, following in zip(words, [*words[1:], ""], strict=True)
    ]
    if not _THEN.isdisjoint(words):
        said = [None if before in _THEN else degree for before, degree in zip(["", *words[:-1]], said, strict=True)]
    return said


def distributed(words: Sequence[str], span: Span) -> list[tuple[str, str]]:
    """Returns side and severity of each part of a finding that is said of both sides with a severity each: "moderate
    right and small left effusions", "effusions, small on the right and moderate on the left", "the left effusion is
    moderate, the right one small"; else nothing."""
    if "left" not in words or "right" not in words:
        return []
    before, after = " ".join(words[: span.described]), " ".join(words[span.end :])
    if found := _SIDE_FIRST.match(after):
        parts = [(found[1], found[2]), (found[3], found[4])]
    elif found := _EACH_BEFORE.search(before) or _EACH_AFTER.match(after):
        parts = [(found[2], found[1]), (found[4], found[3])]
    elif (found := _EACH_IN_TURN.match(after)) and (first := found[1] or _last_side(before)):
        parts = [(first, found[2]), (found[3], found[4])]
    else:
        return []
    return [(side, _SEVERITIES[word]) for side, word in parts] if parts[0][0] != parts[1][0] else []


def _last_side(before: str) -> str | None:
    found = _SIDE_LAST.search(before)
    return found[1] if found else None


def present_severity(words: Sequence[str], span: Span, findings: Sequence[Span]) -> str | None:
    """Returns the severity that a finding is said to have come to: "a large effusion is now small"."""
    if _COMING_TO.isdisjoint(words):
        return None
    high = min((other.described for other in findings if other.start >= span.end), default=len(words))
    text = " ".join(words[span.end : min(high, span.end + _REACH_AFTER)])
    course = _NOW.search(text)
    if course is None or (course.end() == len(text) and high < len(words)):  # "small" of the next finding
        return None
    return _SEVERITIES[course[1]]


def predicate(said: Sequence[str | None], words: Sequence[str], span: Span, findings: Sequence[Span]) -> str | None:
    """Returns the severity that a sentence says of a finding behind its verb or colon: "the left effusion is large"."""
    high = min((other.start for other in findings if other.start >= span.end), default=len(words))
    position = span.end
    while position < high and (words[position] in _APART or (position > span.end and words[position] in _ASIDE)):
        position += 1
    if position > span.end and position < high and said[position]:  # "effusion, left, small", "opacity (mild)"
        following = words[position + 1] if position + 1 < len(words) else ","
        return said[position] if following in _APART or following in _SIDES or following in {")", "to", "in"} else None
    verb = next((i for i in range(span.end, min(high, span.end + _REACH_AFTER)) if words[i] in _COPULAS), None)
    if verb is None or {",", "and"} & set(words[span.end : verb]):
        return None
    position = verb + 1
    while position < high and (words[position] in _BETWEEN or words[position] in _SIDES):
        position += 1
    return said[position] if position < high - (high < len(words)) else None


def modifier(
    said: Sequence[str | None], words: Sequence[str], span: Span, findings: Sequence[Span], *, after: bool
) -> str | None:
    """Returns what is said in the span, else nearest before it, else (``after``) behind it, up to the next finding."""
    for position in range(span.start, span.end):
        if said[position]:
            return said[position]
    low = max((other.end for other in findings if other.end <= span.start), default=0)
    between = words[low : span.start]
    if (
        low
        and ((low == span.start and span.literal) or ("and" in between and len(between) <= 2))
        and (after or _SIDES.keys().isdisjoint(between))
    ):
        low = 0  # "small left effusion and atelectasis" shares its modifiers
    for position in range(span.start - 1, max(low, span.start - _REACH_BEFORE) - 1, -1):
        if said[position]:
            return said[position]
    if not after:
        return None
    end = span.end
    for other in sorted(findings, key=lambda other: other.start):
        if other.start == end + 1 and words[end] == "and":  # "effusion and atelectasis on the right"
            end = other.end
    high = min((other.start for other in findings if other.start >= end), default=len(words))
    found = next((said[i] for i in range(span.end, min(high, end + _REACH_AFTER)) if said[i]), None)
    if found or _TOGETHER.isdisjoint(between):
        return found
    before = max((other for other in findings if other.end <= span.start), key=lambda other: other.end, default=None)
    return modifier(said, words, before, findings, after=True) if before else None  # "and a small associated effusion"


def carried_side(sides: Sequence[str | None], words: Sequence[str], span: Span, place: Span | None) -> str | None:
    """Returns the side said right before the place of a finding, or the only one said before a word that leads on
    to the finding: "left rib fractures with a hemothorax"."""
    if place is not None and (
        near := next((side for side in sides[max(0, place.start - 2) : place.end] if side), None)
    ):
        return near
    if words[0] in _SIDES and ":" in words[1:4]:  # "L lung: effusion"
        return _SIDES[words[0]]
    before = list(words[: span.start])
    leads = max(
        (i for i in range(len(before)) if before[i] in _LEADING or before[i : i + 2] in _APART_FROM), default=None
    )
    if leads is None or {",", ":", "no", "without"} & set(before[leads:]):
        return None
    said = {side for side in sides if side}
    return said.pop() if len(said) == 1 else None


def inner_place(words: Sequence[str], span: Span) -> Term | None:
    """Returns the anatomy that a wording names ("rib fracture"), unless it is the one that is implied anyway.

    A term's own name says nothing beyond what it implies ("pulmonary edema").
    """
    if " ".join(words[span.start : span.end]) == span.term.name:
        return None
    for position in range(span.start, span.end):
        end = span.end - (position == span.start)  # the whole wording is the finding itself
        hit = load_ontology().longest(words[:end], position)
        if hit is not None and hit[1].kind == "anatomy" and hit[1].place and hit[1].name != span.term.anatomy:
            return hit[1]
    return None


def nearest_place(words: Sequence[str], span: Span, anatomies: Sequence[Span], findings: Sequence[Span]) -> Span | None:
    """Returns the nearest anatomy of the sentence that no other finding holds or stands before, or None.

    Behind the finding, the search ends with the clause: at a comma or "and".
    """
    others = [other for other in findings if other is not span]
    best: tuple[int, Span] | None = None
    for place in anatomies:
        low, high = sorted((place.start, span.start))
        if any(low < other.start < high or other.start <= place.start < other.end for other in others):
            continue
        if place.start >= span.end and {",", "and"} & set(words[span.end : place.start]):
            continue
        inside = span.start <= place.start and place.end <= span.end
        distance = 0 if inside else min(abs(place.start - span.end), abs(span.start - place.end))
        if distance <= _REACH_AFTER and (best is None or distance < best[0]):
            best = distance, place
    return best[1] if best else None
