"""Text as the models read it: cleaned reports, finding phrases and tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from medsynth_core.errors import InputError

_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "by",
        "can",
        "for",
        "from",
        "has",
        "have",
        "in",
        "into",
        "is",
        "it",
        "its",
        "no",
        "not",
        "of",
        "on",
        "or",
        "over",
        "seen",
        "that",
        "the",
        "there",
        "this",
        "to",
        "was",
        "were",
        "which",
        "with",
        "within",
        "without",
    ]
)
"""Words that say nothing of a patch; negations among them, since an absent finding has no patch."""

_DEGREES = frozenset(["mild", "moderate", "severe", "slight", "small", "large", "marked", "minimal", "massive"])
"""Words of extent: one patch doesn't show how much of a finding there is."""

SILENT_WORDS = _STOP_WORDS | _DEGREES
"""Words that never vote for a patch."""


def finding_phrase(finding: Mapping[str, str | None]) -> str:
    """Returns a finding in words, e.g. ``moderate left pleural effusion``.

    Args:
        finding: keys pathology, anatomy, side, severity; None, "" and "none" say nothing.
    """
    said = [finding.get("severity"), finding.get("side"), finding.get("pathology")]
    words = [word for word in said if word and word != "none"]
    anatomy = finding.get("anatomy")
    if anatomy:
        words += ["in", anatomy]
    return " ".join(words)


def query_of(findings: Iterable[Mapping[str, str | None]]) -> str:
    """Returns the positive findings in words, what the alignment is asked for; ``normal chest`` without any."""
    return ", ".join(finding_phrase(finding) for finding in findings) or "normal chest"


def phrases_of(query: str) -> list[str]:
    """Returns the phrase of each finding in a query."""
    return query.split(", ")


def condition_text(condition: str, text: str, findings: Iterable[Mapping[str, str | None]]) -> str:
    """Returns what the language model reads of a study or a prompt: its text, or its pathologies' names alone.

    Args:
        condition: report or labels, as ``models.llm.condition``.
    """
    if condition == "report":
        return text
    return ", ".join(sorted({finding["pathology"] or "" for finding in findings})) or "normal"


def train_tokenizer(texts: Iterable[str], min_count: int, max_words: int = 8000) -> PreTrainedTokenizerFast:
    """Returns a lower-casing whole-word tokenizer of the words seen at least ``min_count`` times.

    Rarer words become ``[UNK]``: a word of one patient never enters a model's vocabulary.
    """
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(vocab_size=max_words, min_frequency=min_count, special_tokens=special)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    )


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Returns a tokenizer by name or folder.

    Raises:
        InputError: it isn't there.
    """
    try:
        return AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no tokenizer there ({str(error).splitlines()[0]})") from error
