"""A language model of transformers, run here: report text and requests stay on the machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, PositiveInt

from medsynth_core.config.section import Precision, Section
from medsynth_core.errors import ConfigError
from medsynth_core.hashing import sha256_json
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.records import Assignment, Reply, Usage
from medsynth_core.random import seed_of, stream
from medsynth_core.vocabulary.vocabulary import Vocabulary


class LocalLLMConfig(Section):
    """A language model run here: for a corpus whose terms forbid third-party services."""

    model: str | None = None
    """Folder or name of a causal language model of transformers, with its tokenizer."""
    ask: Literal["reword", "instruct"] = "reword"
    """reword: to say a text of the templates in other words, after four such pairs; a model of 135 M parameters can.
    instruct: to follow the instructions and the vocabulary that servers are told; chat models of some billions may."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    max_new_tokens: PositiveInt = 200
    """Limit of an answer."""
    batch_size: PositiveInt = 8
    """Prompts written together."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, else float32."""


SETTINGS = LocalLLMConfig
_EXAMPLES, _SHOWN = 64, 4
"""Texts of the templates that are examples, and of these in one question. More of them don't help."""


def open_provider(settings: LocalLLMConfig, vocabulary: Vocabulary, seed: int, device: str) -> Provider:
    """Returns the model, loaded.

    Raises:
        ConfigError: none is named.
        InputError: it isn't there, or has no safetensors weights.
    """
    return LocalProvider(settings, vocabulary, seed, device)


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

    def __init__(self, config: LocalLLMConfig, vocabulary: Vocabulary, seed: int, device: str) -> None:
        """Loads the model.

        Raises:
            ConfigError: none is named.
            InputError: it isn't there, or has no safetensors weights.
        """
        from transformers import AutoModelForCausalLM

        from medsynth_core.models.artifact import pick_device, pick_dtype
        from medsynth_core.models.pretrained import load_pretrained
        from medsynth_core.models.text import load_tokenizer

        name = _name_of(config)
        self._config = config
        self._asking: _Asking = _ASKINGS[config.ask](vocabulary, seed)
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
            **self._asking.settings,
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

        from medsynth_core.prompts.messages import failed_reply, read_plain

        texts = [self._asking.prompt(assignment, self._tokenizer) for assignment in assignments]
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
            stop_strings=self._asking.stop,
            tokenizer=self._tokenizer,
        )
        width = inputs["input_ids"].shape[1]
        replies = []
        for assignment, mask, tokens in zip(assignments, inputs["attention_mask"], out[:, width:], strict=True):
            said = _until_end(tokens.tolist(), self._ends())
            used = Usage(int(mask.sum()), len(said))
            raw = self._tokenizer.decode(said, skip_special_tokens=True)
            ended = ""
            if self._asking.stop is not None:
                raw, ended, _ = raw.partition(self._asking.stop)
            if len(said) == self._config.max_new_tokens and not ended:
                problem = "answer: cut off at the token limit (prompts.transformers.max_new_tokens)"
                replies.append(failed_reply([assignment], raw, problem, used))
            else:
                replies.append(read_plain(assignment, raw, used))
        return replies

    def _ends(self) -> frozenset[int]:
        ends = self._model.generation_config.eos_token_id
        every = ends if isinstance(ends, list) else [ends, self._tokenizer.eos_token_id]
        return frozenset(token for token in every if token is not None)


class _Asking(Protocol):
    """How a model is asked.

    Attributes:
        settings: what determines it, for the names of the requests.
        stop: ends an answer, None where its end mark does.
    """

    settings: dict[str, Any]
    stop: str | None

    def prompt(self, assignment: Assignment, tokenizer: Any) -> str:
        """Returns what the model goes on with."""


class _Instruct:
    stop: str | None = None

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        from medsynth_core.prompts.messages import PLAIN_INSTRUCTION, told_vocabulary

        self._told = told_vocabulary(vocabulary)
        self.settings: dict[str, Any] = {"instruction": PLAIN_INSTRUCTION, "vocabulary": self._told}

    def prompt(self, assignment: Assignment, tokenizer: Any) -> str:
        from medsynth_core.prompts.messages import plain_messages_for

        messages = plain_messages_for(assignment, self._told)
        if tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in messages) + "\n\n"
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )


class _Reword:
    """Examples have as many findings as the request, and are others for each attempt."""

    stop: str | None = "\n"

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        from medsynth_core.prompts.messages import REWORDING
        from medsynth_core.prompts.providers.template import TemplateProvider
        from medsynth_core.prompts.sampling import sample_requests
        from medsynth_core.prompts.settings import PromptsConfig

        own = seed_of(seed, "prompts.examples")
        self._seed, self._templates = seed, TemplateProvider(vocabulary, seed)
        templates = TemplateProvider(vocabulary, own)
        self._examples: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for request in sample_requests(vocabulary, PromptsConfig(n=_EXAMPLES), "frontal", own):
            pair = templates.text(request, 0), templates.text(request, 1)
            self._examples[len(request.findings)].append(pair)
        self.settings: dict[str, Any] = {"instruction": REWORDING, "examples": dict(self._examples)}

    def prompt(self, assignment: Assignment, tokenizer: Any) -> str:
        from medsynth_core.prompts.messages import rewording_prompt

        request, attempt = assignment.request, assignment.attempt
        alike = self._examples.get(len(request.findings)) or [pair for each in self._examples.values() for pair in each]
        order = stream(self._seed, "prompts.reword", request.prompt_id, attempt).permutation(len(alike))[:_SHOWN]
        return rewording_prompt([alike[place] for place in order], self._templates.text(request, attempt))


_ASKINGS: dict[str, type[_Instruct] | type[_Reword]] = {"instruct": _Instruct, "reword": _Reword}


def _name_of(config: LocalLLMConfig) -> str:
    if config.model is None:
        raise ConfigError("prompts.provider is transformers: set prompts.transformers.model to a model's folder")
    return config.model


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Returns the tokens before the first end mark."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
