"""Text as the models read it: words that say nothing, and tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
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
