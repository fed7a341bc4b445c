"""A chat model of transformers, run here: report text and requests stay on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from medsynth_core.config.section import Precision, Section
from medsynth_core.errors import ConfigError
from medsynth_core.hashing import sha256_json
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.records import Assignment, Reply, Usage
from medsynth_core.vocabulary.vocabulary import Vocabulary


class LocalLLMConfig(Section):
    """A chat model run here: for a corpus whose terms forbid third-party services."""

    model: str | None = None
    """Folder or name of a causal language model of transformers, with its tokenizer."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.9
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    max_new_tokens: PositiveInt = 200
    """Limit of an answer."""
    batch_size: PositiveInt = 8
    """Prompts written together."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, else float32."""


SETTINGS = LocalLLMConfig


def open_provider(settings: LocalLLMConfig, vocabulary: Vocabulary, seed: int, device: str) -> Provider:
    """Returns the chat model, loaded.

    Raises:
        ConfigError: none is named.
        InputError: it isn't there, or has no safetensors weights.
    """
    return LocalProvider(settings, vocabulary, device)


def check(settings: LocalLLMConfig) -> None:
    """Checks that the model can be found.

    Raises:
        ConfigError: none is named.
        InputError: it isn't there.
    """
    from medsynth_core.models.pretrained import check_pretrained

    check_pretrained("prompts.transformers.model", _name_of(settings))


class LocalProvider:
    """Writes one text a request, ``batch_size`` requests at once; the same requests give the same texts."""

    name = "transformers"
    keeps = True

    def __init__(self, config: LocalLLMConfig, vocabulary: Vocabulary, device: str) -> None:
        """Loads the model.

        Raises:
            ConfigError: none is named.
            InputError: it isn't there, or has no safetensors weights.
        """
        from transformers import AutoModelForCausalLM

        from medsynth_core.models.artifact import pick_device, pick_dtype
        from medsynth_core.models.pretrained import load_pretrained
        from medsynth_core.models.text import load_tokenizer
        from medsynth_core.prompts.messages import PLAIN_INSTRUCTION, told_vocabulary

        name = _name_of(config)
        self._config = config
        self._told = told_vocabulary(vocabulary)
        self._tokenizer = load_tokenizer(name)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        place = pick_device(device)
        model: Any = load_pretrained(
            AutoModelForCausalLM, name, "prompts.transformers.model", dtype=pick_dtype(config.precision, place)
        )
        self._model = model.to(place).eval()
        self.settings: dict[str, Any] = {
            "model": name,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_new_tokens": config.max_new_tokens,
            "instruction": PLAIN_INSTRUCTION,
            "vocabulary": self._told,
        }

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields a reply a request."""
        for start in range(0, len(assignments), self._config.batch_size):
            chunk = assignments[start : start + self._config.batch_size]
            for reply in self._write(chunk):
                account.ledger.keep(reply)
                yield reply

    def _write(self, assignments: Sequence[Assignment]) -> list[Reply]:
        from transformers import set_seed

        from medsynth_core.prompts.messages import failed_reply, plain_messages_for, read_plain

        texts = [self._prompt(plain_messages_for(assignment, self._told)) for assignment in assignments]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {name: inputs[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        sampling = self._config.temperature > 0
        set_seed(int(sha256_json([[a.key, a.attempt] for a in assignments])[:8], 16))
        out = self._model.generate(
            **inputs,
            max_new_tokens=self._config.max_new_tokens,
            do_sample=sampling,
            temperature=self._config.temperature if sampling else None,
            top_p=self._config.top_p if sampling else None,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        width = inputs["input_ids"].shape[1]
        replies = []
        for assignment, mask, tokens in zip(assignments, inputs["attention_mask"], out[:, width:], strict=True):
            said = _until_end(tokens.tolist(), self._ends())
            used = Usage(int(mask.sum()), len(said))
            raw = self._tokenizer.decode(said, skip_special_tokens=True)
            if len(said) == self._config.max_new_tokens:
                problem = "answer: cut off at the token limit (prompts.transformers.max_new_tokens)"
                replies.append(failed_reply([assignment], raw, problem, used))
            else:
                replies.append(read_plain(assignment, raw, used))
        return replies

    def _prompt(self, messages: list[dict[str, str]]) -> str:
        if self._tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in messages) + "\n\n"
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    def _ends(self) -> frozenset[int]:
        ends = self._model.generation_config.eos_token_id
        every = ends if isinstance(ends, list) else [ends, self._tokenizer.eos_token_id]
        return frozenset(token for token in every if token is not None)


def _name_of(config: LocalLLMConfig) -> str:
    if config.model is None:
        raise ConfigError("prompts.provider is transformers: set prompts.transformers.model to a chat model's folder")
    return config.model


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Returns the tokens before the first end mark."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
