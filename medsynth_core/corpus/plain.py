"""Text of a report as its author meant it: what typesetting, web pages and exports did to it is undone."""

from __future__ import annotations

import html
import re
import unicodedata
from contextlib import suppress

from striprtf.striprtf import rtf_to_text

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff\x00"
_TRANSLATED = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
    | dict.fromkeys("\u2018\u2019\u201b\u0060\u00b4\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u2033", '"')
    | dict.fromkeys("\u2022\u2023\u2043\u25aa\u25cf\u25e6\u00b7", "*")
    | dict.fromkeys("\u2610\u25a1\u2717\u2718\u274c", "[ ]")
    | dict.fromkeys("\u2611\u2612\u2713\u2714\u2705", "[x]")
    | dict.fromkeys("\u2028\u2029\x0b\x0c\x85", "\n")
    | dict.fromkeys(_INVISIBLE)
)
_TYPESET = re.compile(r"[^\n\x20-\x7e]")
"""What a plain text has none of."""
_RTF = re.compile(r"\{\\rtf|\\par(?:d\b|\b)")
_DICTATED = {"period": ".", "comma": ",", "colon": ":", "new paragraph": "\n\n", "new line": "\n"}
_SPOKEN = re.compile(rf"[ ]*\b({'|'.join(_DICTATED)})\b", re.IGNORECASE)
"""Signs that a speech recogniser wrote out."""
_ESCAPED_END = re.compile(r"\\r\\n|\\n|\\r")
_BREAK = re.compile(r"<\s*/?\s*(?:br|p|div|li|ul|ol|tr|h[1-6]|table)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:a|b|i|u|em|strong|span|font|sup|sub|td|th|tbody|thead|html|body|head|pre|hr)\b[^<>]{0,200}>", re.IGNORECASE
)
_ENTITY = re.compile(r"&#?\w{2,8};")
_MARKUP = re.compile(r"\*\*|^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
"""Bold and headings of Markdown."""
_DIGITS = re.compile(r"(?<=[a-z]{3})1(?=[a-z]|\b)|(?<=[a-z]{2})0(?=[a-z]{2})")
"""Digits that a scanner took letters for."""
_BROKEN_WORD = re.compile(r"([A-Za-z]{2,})-[ \t]*\n[ \t]*([a-z]{2,})")
_JOINED_BEFORE = frozenset(
    [
        "right", "left", "follow", "well", "ill", "ground", "air", "low", "high", "mid", "long", "short",
        "plate", "band", "wedge", "mass", "dual", "single", "double", "two", "three", "soft", "thin", "thick",
        "upper", "lower", "half", "day", "year", "old", "new", "lead", "fluid", "gas", "self", "semi", "end",
        "x", "pace", "port",
    ]
)  # fmt: skip
_JOINED_AFTER = frozenset(
    [
        "sided", "defined", "circumscribed", "up", "glass", "space", "like", "filled", "lumen", "line", "lead",
        "ray", "tipped", "shaped", "grade", "lying", "standing", "sized", "based", "looking", "predominant",
        "dependent", "related", "appearing",
    ]
)  # fmt: skip
"""Words that a hyphen joins also in the middle of a line ("right-sided")."""


def plain(text: str) -> str:
    """Returns a report in characters of a typewriter, without tags, markup, RTF and words broken at the end of a line.

    Folded are compatible forms of Unicode (ligatures, full width), dashes, quotes, bullets, boxes, spaces and line
    ends; left out soft hyphens, characters without width and NUL; letters keep their accents. A word
    that was broken at the end of a line is mended ("pneumo-", "thorax"). Takes time in proportion to the text.
    """
    if _RTF.search(text):
        whole = text if text.lstrip().startswith("{\\rtf") else f"{{\\rtf1 {text}}}"  # a part of a document
        text = rtf_to_text(whole, errors="ignore")
    if "." not in text and text.lower().count(" period") > 1:
        text = _SPOKEN.sub(lambda found: _DICTATED[found[1].lower()], text)
    if "\\n" in text and "\n" not in text:  # line ends that an export escaped
        text = _ESCAPED_END.sub("\n", text)
    text = text.replace("\\.br\\", "\n")  # HL7's
    if "\u00e2\u20ac" in text or "\u00c3" in text:  # UTF-8 that was read as Windows-1252
        with suppress(UnicodeError):
            text = text.encode("cp1252").decode("utf-8")
    if _TYPESET.search(text):
        text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_TRANSLATED)
        text = unicodedata.normalize("NFKC", text).translate(_TRANSLATED).replace("\t", " ")
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text).translate(_TRANSLATED).replace("\xa0", " ")
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    if "**" in text or "#" in text:
        text = _MARKUP.sub("", text)
    if "1" in text or "0" in text:
        text = _DIGITS.sub(lambda found: "l" if found[0] == "1" else "o", text)
    if "-" in text and "\n" in text:
        text = _BROKEN_WORD.sub(_mended, text)
    return text


def _mended(broken: re.Match[str]) -> str:
    before, after = broken.groups()
    joint = "-" if before.lower() in _JOINED_BEFORE or after in _JOINED_AFTER else ""
    return f"{before}{joint}{after}"
