"""How a report is read: its sections, its sentences, what each says and by which words, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsynth_core.corpus.language import other_language
from medsynth_core.corpus.sections import LeftOut, read_sections
from medsynth_core.vocabulary.mining import Mention, mine_sentences, positive_findings


@dataclass(frozen=True)
class Sentence:
    """One sentence.

    Attributes:
        section: findings or impression.
        text: as it is read.
        mentions: in order.
    """

    section: str
    text: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Explained:
    """A report as it is read.

    Attributes:
        language: that the report is in, where that isn't English; then nothing is mined.
        sentences: in order, findings first.
        left_out: what isn't read, with its reason.
        findings: what is asserted in the end, as ``positive_findings``.
    """

    language: str | None
    sentences: Sequence[Sentence]
    left_out: Sequence[LeftOut]
    findings: Sequence[dict[str, str | None]]


def explain(report: str) -> Explained:
    """Returns how a report is read, as the stages ``corpus`` and ``vocabulary`` do."""
    read = read_sections(report)
    language = other_language(f"{read.findings}\n{read.impression}")
    sentences = [
        Sentence(section, text, mentions)
        for section, body in (("findings", read.findings), ("impression", read.impression))
        for text, mentions in (mine_sentences(body) if language is None else ())
    ]
    found = positive_findings([mention for sentence in sentences for mention in sentence.mentions])
    return Explained(language, sentences, read.left_out, found)


def status_of(mention: Mention) -> str:
    """Returns what is said of a mention: present, uncertain or absent; of an anatomy, named or normal."""
    if mention.kind == "anatomy":
        return "normal" if mention.normal else "named"
    return mention.status
