"""How a report is read: its sections, its sentences, what each says and by which words, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsynth_core.corpus.language import other_language
from medsynth_core.corpus.sections import LeftOut, Sections
from medsynth_core.vocabulary.mining import Mention, mine_sentences, positive_findings, without_answered


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


def explain(read: Sections) -> Explained:
    """Returns how a report is read, as stage ``vocabulary`` does."""
    bodies = {"findings": read.findings, "impression": read.impression}
    language = other_language("\n".join(bodies.values()))
    mined = [
        (name, *each)
        for name, body in bodies.items()
        for each in (((line, ()) for line in body.splitlines()) if language else mine_sentences(body))
    ]
    kept = without_answered((text, mentions) for _, text, mentions in mined)
    sentences = [Sentence(name, *each) for (name, _, _), each in zip(mined, kept, strict=True)]
    found = positive_findings([mention for sentence in sentences for mention in sentence.mentions])
    return Explained(language, sentences, read.left_out, found)


def status_of(mention: Mention) -> str:
    """Returns what is said of a mention: present, uncertain or absent; of an anatomy, named or normal."""
    if mention.kind == "anatomy":
        return "normal" if mention.normal else "named"
    return mention.status
