"""Sentences and words of a report."""

from __future__ import annotations

import re
from functools import lru_cache, partial

from medsynth_core.vocabulary.ontology import fold, load_ontology

_END = re.compile(
    r"(?<=[.!?])\s+(?=[A-Z0-9(\"'X_\[*-])|(?<=[a-z0-9)]{2}\.)\s+(?=[a-z])|\s\.\s|\n+|;\s*|(?<=[a-z]{3})\.(?=[A-Za-z]|\d{1,2}[.)]\s)"
    r"|(?:^|\s)\d{1,2}[.)]\s+(?=[A-Z])|(?:^|\s)\d{1,2}\)(?=[A-Za-z])"
)
_LIST_NUMBER = re.compile(r"\(?\d{1,2}[.)]")
_BULLET = re.compile(r"^[*>+-]+\s+")
_WORD = re.compile(r"[A-Za-z][A-Za-z]*(?:'s)?|\d+(?:\.\d+)?|[,:?()]")
_ANSWER = re.compile(
    r"(?:(?:yes|none|nil|absent|present|negative|positive|not seen|nothing|no)\b[.!]?|(?:yes|no)\b\s*[,;-].*)",
    re.IGNORECASE,
)
"""A sentence that answers the one before it ("Effusion? No.")."""
_MAX_WORDS = 120
"""A longer sentence is none; it is cut, so that what each word may refer to is bounded, and the time that takes."""
_ABBREVIATIONS = frozenset(
    [
        "dr", "mr", "mrs", "ms", "prof", "vs", "approx", "e.g", "i.e", "eg", "ie", "rt", "lt", "bilat", "neg",
        "poss", "fig", "cf", "resp", "incl", "assoc", "prob", "susp", "hx", "dx", "sx", "pt", "pts", "st",
        "inc", "dec", "pl", "pulm", "ant", "post", "lat", "inf", "sup", "med", "min", "mod", "sl",
    ]
)  # fmt: skip
_NOT = re.compile(r"\b(ca|wo|is|are|was|were|do|does|did|has|have|had|could|would|should)n't\b", re.IGNORECASE)
_NOT_IN_FULL = {"ca": "cannot", "wo": "will not"}
_BOX_FIRST = re.compile(r"(?:^|(?<=\s))(?:(\[\s?\]|\(\s\))|\[[xX]\]|\([xX]\))\s*(?=[A-Za-z])")
_BOX_LAST = re.compile(r"\s*:?\s*(?:(\[\s?\]|\(\s\))|\[[xX]\]|\([xX]\))(?=\s|[,.;]|$)")
_SIGN_FIRST = re.compile(r"(?:^|(?<=[,:]\s))(?:(\(-\))|\(\+\))\s*(?=[A-Za-z])")
_SIGN_LAST = re.compile(r"\s*:?\s*(?:(\(-\))|\(\+\)|\+(?=[\s,.;)]|$))")
_MINUS_LAST = re.compile(r"(?<=[A-Za-z])\s(-)(?=\s*(?:[,.;)]|$))")
_WORD_LAST = re.compile(
    r"\s*:?\s*\((?:(no|absent|neg(?:ative)?|none|nil|n)|(?:yes|present|pos(?:itive)?|y))\)"
    r"|(?<=[a-z])(?<!\brib)\s(?:(no)|yes)(?=,|\.?$)",
    re.IGNORECASE,
)
"""An answer behind what it is of: "effusion (yes), mass (no)", "effusion yes, mass no"."""
_SIGNS = (
    (_BOX_FIRST, "no ", ": "),
    (_SIGN_FIRST, "no ", ": "),
    (_BOX_LAST, ": absent", ": present"),
    (_SIGN_LAST, ": absent", ": present"),
    (_MINUS_LAST, ": absent", ": present"),
    (_WORD_LAST, ": absent", ": present"),
)
"""With what stands for an empty box, a minus or "no", and for a ticked one, a plus or "yes"."""
_SIGNS_LAST = (" -", " no", " yes", " -.", " no.", " yes.")
"""What a sentence without brackets, a plus or a comma behind a sign ends in, if it has signs."""
_SHORT = {
    " : ": r"\s-+\s|\s?=\s?|\s?\|\s?|\s?\.{2,}\s?",
    "without": r"\b[wW]/[oO]\b",
    "evidence of": r"\b[eE]/[oO]\b",
    "with ": r"\b[wW]/\s?",
    "status post": r"\b[sS]/[pP]\b",
    "rule out": r"\b[rR]/[oO]\b",
    "consistent with": r"\b[cC]/[wW]\b",
    "bilateral": r"\b[bB](?:/[lL]\b|ilat\b\.?)|\bBILAT\b|\bB/L\b|\bBL\b|\b[RL]\s?(?:[<>=&/+]|and)\s?[RL]\b"
    r"|\b[rR]t\.?\s?(?:[<>=&/+]|and)\s?[lL]t\b\.?",
    "right": r"\b[Rr]t\b\.?|\b[Rr]\b(?:(?<=\b[Oo]n .)|(?<=\bthe .))"
    r"|\bR(?=\s+(?:[a-z]|[A-Z]{2,}\b|-|\d{1,2}(?:st|nd|rd|th))|\s*:)|\(R(?=[,)])",
    "left": r"\b[Ll]t\b\.?|\b[Ll]\b(?:(?<=\b[Oo]n .)|(?<=\bthe .))"
    r"|\bL(?=\s+(?:[a-z]|[A-Z]{2,}\b|-|\d{1,2}(?:st|nd|rd|th))|\s*:)|\(L(?=[,)])",
    "right ": r"(?<![\d'/.]\s)(?<!\S)r\s(?=[a-z]{2})",
    "left ": r"(?<![\d'/.]\s)(?<!\S)l\s(?=[a-z]{2})",
    "versus": r"\b[vV]s\b\.?",
    "cannot": r"\b[cC]an not\b",
    "negative": r"\b[nN]eg\b\.?|(?<!\w)-ve\b",
    "positive": r"(?<!\w)\+ve\b",
    "possible": r"\b[pP]oss\b\.?",
    "probable": r"\b[pP]rob\b\.?",
    "query ": r"\?(?=[A-Za-z])",
    "enlarged": r"\b[eE]nl\b\.?",
    "pulmonary": r"\b[pP]ulm\b\.?",
    "fracture": r"#(?!\s?\d)",
    "exclude": r"\b[eE]xcl\b\.?",
    "no ": r"[Øø∅](?<!\w.)(?:\s+|(?=[A-Z]{2}))(?=[A-Za-z])",
    " greater than ": r">\s?(?=\d)",
    " less than ": r"<\s?(?=\d)",
}
"""Abbreviations of prose; those of anatomy and findings are synonyms in the ontology."""
_SIGN_CHARACTERS = frozenset("/|=#+?-(<>&:Øø∅")
_SHORT_WORDS = frozenset(
    f"{word}{end}"
    for word in (
        "can", "bl", "bilat", "rt", "lt", "r", "l", "vs", "neg", "poss", "prob", "enl", "pulm", "excl",
    )
    for end in ("", ".", ";")
)  # fmt: skip
"""Without one of both, nothing is abbreviated."""
_ANY_SHORT = re.compile("|".join(f"({pattern})" for pattern in _SHORT.values()))
_LONG = tuple(_SHORT)
_IN_FULL = {
    "rul": ("right", "upper", "lobe"),
    "rml": ("right", "middle", "lobe"),
    "rll": ("right", "lower", "lobe"),
    "lul": ("left", "upper", "lobe"),
    "lll": ("left", "lower", "lobe"),
    **{
        f"{blood}pneumothora{end}": (words, "and", "pneumothorax")
        for blood, words in (("hemo", "hemothorax"), ("haemo", "hemothorax"), ("hydro", "hydrothorax"))
        for end in ("x", "ces")
    },
    **{
        f"{side[0]}{part[0]}z": (side, part, "zone") for side in ("right", "left") for part in ("upper", "mid", "lower")
    },
}


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a report; decimals, abbreviations and list numbers don't end one. Of what goes on
    without end, ``_MAX_WORDS`` words are one."""
    sentences: list[str] = []
    for part in _END.split(text):
        part = _BULLET.sub("", (part or "").strip())
        if not part or _LIST_NUMBER.fullmatch(part):
            continue
        if not sentences or len(sentences[-1]) > _MAX_WORDS * 8:
            sentences.append(part)
        elif sentences[-1].endswith("?") and sentences[-1] != "?" and _ANSWER.fullmatch(part):
            sentences[-1] = f"{sentences[-1][:-1].rstrip()}: {part}"
        elif sentences[-1] == "?" or _ends_in_abbreviation(sentences[-1]):
            sentences[-1] += " " + part
        else:
            sentences.append(part)
    return [piece for sentence in sentences for piece in _cut(sentence)]


def _cut(sentence: str) -> list[str]:
    if len(sentence) <= _MAX_WORDS:
        return [sentence]
    words = sentence.split(" ")
    return [" ".join(words[start : start + _MAX_WORDS]) for start in range(0, len(words), _MAX_WORDS)]


def spell_out(sentence: str) -> str:
    """Returns a sentence with the abbreviations of prose in full: ``w/o``, ``s/p``, ``b/l``, ``Rt.``, ``L base``,
    ``isn't``, and the signs of forms in words: ``(-) PTX``, ``[x] effusion``, ``effusion = 0``."""
    if "n't" in sentence:
        sentence = _NOT.sub(_not_in_full, sentence)
    lowered = sentence.lower()
    if (
        "[" in sentence
        or "(" in sentence
        or "+" in sentence
        or "- " in sentence
        or "-," in sentence
        or " no," in lowered
        or " yes," in lowered
        or lowered.endswith(_SIGNS_LAST)
    ):
        for sign, absent, present in _SIGNS:
            sentence = sign.sub(partial(_in_words, absent, present), sentence)
        lowered = sentence.lower()
    words = lowered.replace(",", " ").split()
    if _SIGN_CHARACTERS.isdisjoint(sentence) and ".." not in sentence and _SHORT_WORDS.isdisjoint(words):
        return sentence
    return _ANY_SHORT.sub(lambda found: _LONG[(found.lastindex or 1) - 1], sentence)


def _in_words(absent: str, present: str, found: re.Match[str]) -> str:
    return absent if any(found.groups()) else present


def _not_in_full(found: re.Match[str]) -> str:
    verb = found[1].lower()
    return _NOT_IN_FULL.get(verb, f"{verb} not")


def split_words(sentence: str) -> list[str]:
    """Returns the words of a sentence, lobes (``RLL``) and words of two findings in full; commas, colons, brackets and
    ``?`` are words too."""
    words: list[str] = []
    for word in _WORD.findall(sentence):
        words.extend(_IN_FULL.get(word.lower(), (word,)))
    return words


def fold_words(words: list[str]) -> list[str]:
    """Returns the words in lower case, plurals folded, those of the ontology in its spelling."""
    return [_folded(word) for word in words]


@lru_cache(maxsize=20_000)
def _folded(word: str) -> str:
    return load_ontology().spelt(fold(word.removesuffix("'s")))


def _ends_in_abbreviation(sentence: str) -> bool:
    if not sentence.endswith("."):
        return False
    words = sentence[:-1].rsplit(None, 1)
    return bool(words) and words[-1].lower() in _ABBREVIATIONS
