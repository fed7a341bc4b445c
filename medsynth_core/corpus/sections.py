"""Sections of a free-text report: what was asked, compared and signed is left out, everything else is read.

What a house calls its findings can't be foreseen ("RESULT:", "XR Chest:", nothing at all), what is no finding can: a
report is read but for what stands under a heading that is known to introduce something else, and how far that reaches
depends on the heading. A history reaches to the next paragraph, or line that begins anew; a comparison, a technique or
the name of an examination to the first sentence that speaks of something else; a name or a date to the end of its line;
a signature to the end; each of them to the next heading where findings have one of their own further down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from medsynth_core.corpus.plain import plain

_FINDINGS = (
    "findings", "finding", "report", "observations", "observation", "interpretation", "chest", "result", "results",
    "description", "body of report", "discussion", "comment", "comments", "addendum", "wet read", "preliminary report",
    "final report", "findings and impression", "findings/impression", "findings & impression",
    "impression and findings", "narrative", "report body", "pfi", "fdgs", "fdg",
)  # fmt: skip
_IMPRESSION = (
    "impression", "impressions", "conclusion", "conclusions", "summary", "opinion", "final impression", "imp", "impr",
    "concl",
)  # fmt: skip
_ASKED = (
    "history", "clinical history", "clinical information", "clinical indication", "clinical data", "clinical details",
    "clinical detail", "clinical question", "clinical statement", "clinical background", "clinical notes",
    "clinical summary", "history of present illness", "past medical history", "relevant history", "indication",
    "indications", "indication for study", "indication for exam", "reason", "reason for exam",
    "reason for examination", "reason for study", "reason for this examination", "reason for this exam",
    "reason for request", "reason for referral", "medical condition", "underlying medical condition", "diagnosis",
    "admitting diagnosis", "referral", "request", "question", "symptoms", "patient history", "pmh", "pmhx", "hx",
    "order question", "signs and symptoms", "presenting complaint", "clinical concern", "working diagnosis",
    "indication/history", "history/indication", "provided history", "relevant clinical information", "clinical",
    "clinical data/history", "past history", "background", "ind", "clin hx", "clinical hx", "clin info",
)  # fmt: skip
_OF_THE_STUDY = (
    "comparison", "comparisons", "comparison study", "comparison studies", "comparison exam", "comparison film",
    "prior", "priors", "prior study", "prior studies", "prior exam", "previous", "previous exam", "previous study",
    "technique", "techniques", "examination", "exam", "exams", "exam type", "type of exam", "procedure", "procedures",
    "procedure name", "study", "study type", "views", "view", "number of views", "projection", "projections",
    "comp", "tech", "quality", "image quality", "technical quality", "limitations",
)  # fmt: skip
_ADVICE = (
    "recommendation", "recommendations", "recommend", "notification", "communication", "advice", "plan", "follow up",
    "critical result", "critical results", "critical findings communication",
)  # fmt: skip
_SIGNED = (
    "attending", "attending radiologist", "signed by", "signed", "electronically signed by", "electronically signed",
    "dictated by", "dictated", "transcribed by", "transcribed", "transcriptionist", "verified by", "verified",
    "reported by", "reviewed by", "approved by", "authorised by", "authorized by", "interpreted by", "radiologist",
    "resident", "cc",
)  # fmt: skip
_FIELDS = (
    "patient name", "patient", "name", "mrn", "patient id", "id", "accession", "accession number", "dob",
    "date of birth", "date", "time", "date of exam", "exam date", "date of examination", "date of service", "location",
    "ward", "referring physician", "ordering physician", "ordering provider", "requested by", "referrer",
    "consultant", "age", "sex", "gender", "age/sex", "ref by", "referred by", "report status", "date reported",
)  # fmt: skip
_READ = frozenset((*_FINDINGS, *_IMPRESSION))
_REASONS = {
    name: reason
    for reason, names in {
        "what was asked": _ASKED,
        "about the study": _OF_THE_STUDY,
        "advice": _ADVICE,
        "signatures": _SIGNED,
        "names and dates": _FIELDS,
    }.items()
    for name in names
}
"""Why what stands under a heading is left out."""
_KNOWN = sorted((*_READ, *_REASONS), key=len, reverse=True)
_NAME = "|".join(re.escape(name).replace(r"\ ", "[ ]+") for name in _KNOWN)
_WITHIN = "|".join(
    form
    for name in (
        "findings", "impression", "indication", "history", "clinical history", "clinical information", "comparison",
        "technique", "conclusion", "reason for exam", "reason for examination", "pmh", "order question", "report",
        "result", "reason", "fdgs", "imp",
    )
    for form in (name.upper(), name.capitalize(), name.title())
)  # fmt: skip
_FREE = rf"(?:(?!\b(?-i:{_WITHIN})\b)[^:.\n])"
"""A character of the name of an examination, which no other heading is part of."""
_VIEWS = rf"chest\b{_FREE}{{0,40}}|(?:portable|frontal|ap|pa|xr|cxr|x-?ray)\b{_FREE}{{0,40}}\bchest\b{_FREE}{{0,30}}"
_HEADING = re.compile(
    rf"(?:^|(?<=[.;!?:][ ])|(?<=[.;]))[ ]*(?:(?P<known>{_NAME})[ ]*:|(?P<views>{_VIEWS}):)(?!\d)[ ]*"
    rf"|(?<=[ ])(?-i:(?P<within>{_WITHIN}))[ ]*:(?!\d)[ ]*",
    re.IGNORECASE | re.MULTILINE,
)
"""At the beginning of a line or a sentence; the commonest, with a capital, anywhere."""
_ALONE = re.compile(
    rf"^[ ]*(?:(?P<bare>{_NAME})[ ]*[-=]*[ ]*$|(?P<odd>[A-Z][A-Za-z]{{4,14}})[ ]*:"
    rf"|(?P<before>{_NAME})[ ]{{2,}}(?=[A-Z]))",
    re.IGNORECASE,
)
"""A heading without a colon alone on its line, or before a gap; a word with one that may be misspelt."""
_RULE = re.compile(r"^[ ]*[_=*~-]{3,}[ ]*$", re.MULTILINE)
_BULLET = re.compile(r"^(?:[*>+-]|\(?\d{1,2}[.)]|\[[ xX]?\])(?=[ ])")
_SENTENCE_END = re.compile(r"(?<=[.!?])[ ]+|\n+")
_ON_STUDY = re.compile(
    r"\b(?:compar\w+|prior|previous\w*|radiographs?|films?|x-?rays?|none|not? available|available|unavailable|studies|"
    r"study|examination|exam|images?|views?|projections?|ap|pa|lateral|portable|frontal|upright|erect|supine|semi"
    r"|dated?|cts?|computed|tomograph\w*|mr|mri|no priors?|technique|obtained|performed|acquired|rotated|rotation"
    r"|suboptimal|contrast)\b|_{2,}|X{3,}|\b\d{1,4}[/-]\d{1,2}[/-]\d{1,4}\b|\b(?:19|20)\d\d\b",
    re.IGNORECASE,
)
_FILM = re.compile(
    r"(?:(?<=\n)|(?<=[.?][ ])|(?<=[.?][ ]{2}))[ ]*"
    r"(?:(?:single|two|portable|frontal|upright|erect|supine|semi-?upright|ap|pa|one)\b[^.\n]{0,40}"
    r"\b(?:chest|views?|radiographs?|films?)\b|chest (?:x-?ray|radiograph|film))",
    re.IGNORECASE,
)
"""Where a text that began with what was asked comes to the film."""
_OTHER_HEADING = re.compile(r"(?<=\n)[ ]*[A-Z][A-Za-z /&-]{2,40}:")
"""One that isn't known, like that of an organ."""
_WORD_OF_PROSE = re.compile(r"\b[a-z]{2,}\b")
_MISSPELT = ("findings", "impression", "conclusion", "indication", "comparison", "technique", "history")
_CLOSE = 0.84
_LOOKED_BACK = 300
"""Characters, for the heading that a line began with."""
_LEAST_WIDTH = 50
"""Lines that are never longer weren't wrapped."""


class LeftOut(NamedTuple):
    """A part of a report that wasn't read."""

    reason: str
    text: str


class Sections(NamedTuple):
    """A report taken apart.

    Attributes:
        findings, impression: what is read; a line break is an end that the report has no full stop for.
        left_out: what isn't, in order.
    """

    findings: str
    impression: str
    left_out: tuple[LeftOut, ...] = ()


def parse_sections(text: str) -> tuple[str, str]:
    """Returns (findings, impression) of a report, as ``read_sections``."""
    read = read_sections(text)
    return read.findings, read.impression


def read_sections(text: str) -> Sections:
    """Returns what is read of a report and what is left out.

    Everything that isn't known to be something else is read as findings. White space is folded; a line break stays
    where it ends a sentence or an item of a list without a full stop. Takes time in proportion to the text.
    """
    kept: dict[str, list[str]] = {"findings": [], "impression": []}
    left_out: list[LeftOut] = []
    parts = list(_parts(_marked(_RULE.sub("\n", plain(text)))))
    last_findings = max((place for place, (name, _) in enumerate(parts) if name in _FINDINGS), default=-1)
    for place, (name, body) in enumerate(parts):
        reason = _REASONS.get(name)
        if name == "":
            read, dropped = _without_head(body)
            reason = "before the first heading"
        elif reason is None:
            read, dropped = body, ""
        elif place < last_findings:
            read, dropped = "", body
        else:
            read, dropped = _read_under(reason, body)
        kept["impression" if name in _IMPRESSION else "findings"].append(read)
        if dropped.strip():
            left_out.append(LeftOut(str(reason), _unwrapped(dropped)))
    findings, impression = (_unwrapped("\n\n".join(kept[name])) for name in ("findings", "impression"))
    return Sections(findings, impression, tuple(left_out))


def _marked(text: str) -> str:
    """Gives headings that stand alone on their line, before a gap or misspelt the colon and the spelling they lack."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = _ALONE.match(line) if len(line) < _LEAST_WIDTH * 10 else None
        if found is None:
            continue
        if bare := found["bare"]:
            following = lines[number + 1].lstrip() if number + 1 < len(lines) else ""
            before = lines[number - 1].strip() if number else ""
            if (
                not bare[0].isupper()
                or following[:1].islower()
                or (before and not _ends(before) and not bare.isupper())
            ):
                continue  # part of a sentence
            lines[number] = f"{bare}:"
        elif gap := found["before"]:
            if gap.isupper():
                lines[number] = f"{gap}: {line[found.end() :]}"
        elif odd := _spelt(found["odd"].lower()):
            lines[number] = f"{odd}:{line[found.end() :]}"
    return "\n".join(lines)


@lru_cache(maxsize=1_000)
def _spelt(word: str) -> str | None:
    """Returns the heading that a word is a misspelling of, or None."""
    if word in _READ or word in _REASONS:
        return None
    return next(iter(get_close_matches(word, _MISSPELT, 1, _CLOSE)), None)


def _ends(line: str) -> bool:
    return line.rstrip().endswith((".", ":", "!", "?", ";"))


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Yields (heading in lower case, what stands under it); what stands before the first has none. A report without a
    heading is one part of findings."""
    found = [heading for heading in _HEADING.finditer(text) if _begins_a_part(heading, text)]
    if not found:
        yield "findings", text
        return
    yield "", text[: found[0].start()]
    for heading, following in zip(found, [*found[1:], None], strict=True):
        name = " ".join((heading["known"] or heading["within"] or "chest").lower().split())
        yield name, text[heading.end() : following.start() if following else len(text)]


def _begins_a_part(heading: re.Match[str], text: str) -> bool:
    """Returns whether a heading is one: what would be left out under a word in the middle of a line has to be written
    as a heading, or prose ("Procedure: a drain was placed.") would take the rest of a report with it."""
    name = heading["known"]
    if name is None or name.lower() in _READ:
        return True
    before = text[max(0, heading.start() - _LOOKED_BACK) : heading.start()]
    return name.isupper() or not before.strip() or before[-1:] == "\n" or _HEADED.search(before) is not None


_HEADED = re.compile(
    rf"(?:^|\n)[ ]*(?:{'|'.join(re.escape(name) for name in sorted(_REASONS, key=len, reverse=True))})[ ]*:[^\n]*$",
    re.IGNORECASE,
)
"""A line that began with something to be left out, which a whole report may be written in."""


def _without_head(text: str) -> tuple[str, str]:
    """Returns (read, left out) of what stands before the first heading: sentences, and names of patient and study."""
    read, dropped = list[str](), list[str]()
    for line in text.split("\n"):
        says = _ends(line) and len(_WORD_OF_PROSE.findall(line)) >= 2 and not _ON_STUDY.search(line)
        (read if says or not line.strip() else dropped).append(line)
    return "\n".join(read), "\n".join(dropped)


def _read_under(reason: str, body: str) -> tuple[str, str]:
    """Returns (read, left out) of what stands under a heading that introduces no findings."""
    if reason == "signatures":
        return "", body
    if reason == "names and dates":
        line, _, rest = body.partition("\n")
        return rest, line
    paragraph, rest = _first_paragraph(body)
    if reason == "advice":
        return rest, paragraph
    if reason == "what was asked":
        turns = (_FILM.search(paragraph), _OTHER_HEADING.search(paragraph))
        end = min([_first_lines(paragraph), *(turn.start() for turn in turns if turn is not None)])
        return f"{paragraph[end:]}\n\n{rest}", paragraph[:end]
    end = 0
    for sentence in _sentences(paragraph):
        if end and not _ON_STUDY.search(sentence) and _WORD_OF_PROSE.search(sentence):
            break
        end += len(sentence)
    return f"{paragraph[end:]}\n\n{rest}", paragraph[:end]


def _first_paragraph(body: str) -> tuple[str, str]:
    start = len(body) - len(body.lstrip())
    gap = re.compile(r"\n[ ]*\n").search(body, start)
    return (body, "") if gap is None else (body[: gap.start()], body[gap.end() :])


def _first_lines(paragraph: str) -> int:
    """Returns where the first line of a paragraph begins that nothing but its author's will begins: the one before ends
    a sentence, and the break wasn't forced."""
    lines = paragraph.split("\n")
    width, place = max(map(len, lines)), 0
    for before, line in pairwise(lines):
        place += len(before) + 1
        words = line.split()
        if _ends(before) and words and words[0][0].isupper() and not _goes_on(words[0], len(before), width):
            return place
    return len(paragraph)


def _sentences(text: str) -> Iterator[str]:
    """Yields sentences with what separates them, so that they make up the text."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _unwrapped(text: str) -> str:
    """Returns text in which a line break ends what it should end: lines that were only wrapped are joined.

    A line was wrapped if the next one's first word wouldn't have fitted, or if that goes on in lower case; an item of a
    list begins anew.
    """
    lines = text.split("\n")
    width = max(map(len, lines))
    pieces: list[str] = []
    before = 0
    for line in lines:
        words = line.split()
        if words:
            begins = before == 0 or _BULLET.match(line.lstrip()) or not _goes_on(words[0], before, width)
            ended = pieces and pieces[-1].endswith((".", "!", "?"))
            pieces += ["\n" if begins and not ended else " "] if pieces else []
            pieces.append(" ".join(words))
        before = len(line) if words else 0
    return "".join(pieces)


def _goes_on(first: str, before: int, width: int) -> bool:
    """Returns whether a line that begins with the word ``first`` goes on with the one of ``before`` characters."""
    return first[0].islower() or (width >= _LEAST_WIDTH and before + 1 + len(first) > width)
