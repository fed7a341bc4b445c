"""The OpenAI-compatible provider: official client, structured output, several prompts a call.

Only instructions and vocabulary terms are sent, never text of a report (contract C8).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from medsynth_core.config.tree import OpenAIConfig
from medsynth_core.errors import ConfigError, ModelOutputError, TransientError
from medsynth_core.prompts.adherence import MAX_WORDS
from medsynth_core.prompts.records import Draft, PromptRequest, Usage
from medsynth_core.vocabulary.vocabulary import Vocabulary

_INSTRUCTION = (
    "You write the findings section of chest radiograph reports for synthetic images. For each request write two to "
    f"four sentences, at most {MAX_WORDS - 30} words, in the prose of a radiologist. Assert each requested finding "
    "with its side, place and severity, using the given term for it. Assert no other abnormality; you may deny others "
    "or call anatomy normal, using only the given vocabulary. No names, dates, numbers, measurements, comparisons with "
    "earlier studies or recommendations. Answer with JSON: "
    '{"prompts": [{"id": "...", "text": "..."}]}, one item a request.'
)


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    text: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: list[_Item]


class OpenAIProvider:
    """Asks a chat-completions server."""

    name = "openai"

    def __init__(self, config: OpenAIConfig, vocabulary: Vocabulary, key: SecretStr) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._client = openai.OpenAI(
            api_key=key.get_secret_value(),
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )
        self._structured = True

    @classmethod
    def from_environment(cls, config: OpenAIConfig, vocabulary: Vocabulary) -> OpenAIProvider:
        """Returns a provider with the key of OPENAI_API_KEY.

        Raises:
            ConfigError: the variable isn't set.
        """
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise ConfigError(
                "prompts.provider is openai, but OPENAI_API_KEY is not set; export it (any value for a local server)"
            )
        return cls(config, vocabulary, SecretStr(key))

    def write(self, requests: Sequence[PromptRequest], complaints: Sequence[str | None], attempt: int) -> list[Draft]:
        """Returns a draft a request, ``prompts_per_call`` requests a call, ``concurrency`` calls at once.

        Raises:
            ConfigError: the server refuses the key or the model.
            TransientError: the server stays unreachable or busy after all retries.
        """
        size = self._config.prompts_per_call
        chunks = [list(range(i, min(i + size, len(requests)))) for i in range(0, len(requests), size)]
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            answers = pool.map(
                lambda chunk: self._call([requests[i] for i in chunk], [complaints[i] for i in chunk]), chunks
            )
            return [draft for answer in answers for draft in answer]

    def _call(self, requests: list[PromptRequest], complaints: list[str | None]) -> list[Draft]:
        try:
            text, usage = self._complete(requests, complaints)
            answer = _Answer.model_validate(json.loads(_unfenced(text)))
        except ModelOutputError as error:
            return [Draft(None, f"answer: {error}") for _ in requests]
        except (json.JSONDecodeError, ValidationError) as error:
            reason = f"answer: not the JSON that was asked for ({type(error).__name__})"
            return [Draft(None, reason) for _ in requests]
        texts = {item.id: item.text.strip() for item in answer.prompts}
        share = Usage(usage.input_tokens // len(requests), usage.output_tokens // len(requests))
        return [
            Draft(texts[r.prompt_id], None, share)
            if texts.get(r.prompt_id)
            else Draft(None, "answer: no text for this request", share)
            for r in requests
        ]

    def _complete(self, requests: list[PromptRequest], complaints: list[str | None]) -> tuple[str, Usage]:
        body = {
            "vocabulary": {
                "anatomy": self._vocabulary.terms("anatomy")[:60],
                "pathology": self._vocabulary.terms("pathology")[:60],
            },
            "requests": [
                {
                    "id": request.prompt_id,
                    "view": request.view,
                    "findings": [vars(finding) for finding in request.findings] or "none: a normal chest",
                    **({"last_answer_was_rejected_because": complaint} if complaint else {}),
                }
                for request, complaint in zip(requests, complaints, strict=True)
            ],
        }
        messages: list[Any] = [
            {"role": "system", "content": _INSTRUCTION},
            {"role": "user", "content": json.dumps(body)},
        ]
        try:
            completion = self._create(messages)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(f"the LLM server refused OPENAI_API_KEY (HTTP {error.status_code})") from error
        except openai.NotFoundError as error:
            raise ConfigError(
                f"the LLM server knows no model {self._config.model!r}; set prompts.openai.model or base_url"
            ) from error
        except openai.BadRequestError as error:
            raise ConfigError(f"the LLM server refused the request: {error.message[:200]}") from error
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise TransientError(
                f"the LLM server at {self._client.base_url} failed {self._config.max_retries + 1} times "
                f"({type(error).__name__}); run again to go on"
            ) from error
        choice = completion.choices[0] if completion.choices else None
        if choice is None or not choice.message.content:
            raise ModelOutputError("empty, or a refusal")
        if choice.finish_reason == "length":
            raise ModelOutputError("cut off at the server's token limit; lower prompts.openai.prompts_per_call")
        used = completion.usage
        return choice.message.content, Usage(used.prompt_tokens, used.completion_tokens) if used else Usage()

    def _create(self, messages: list[Any]) -> Any:
        """Asks with a JSON schema; a server that knows none is asked in plain text from then on."""
        common: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "temperature": self._config.temperature,
        }
        if self._structured:
            schema: Any = {"name": "prompts", "strict": True, "schema": _Answer.model_json_schema()}
            try:
                return self._client.chat.completions.create(
                    **common,
                    response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[call-overload]
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                self._structured = False
        return self._client.chat.completions.create(**common)


def _unfenced(text: str) -> str:
    """Returns the JSON of an answer that was wrapped in a Markdown fence."""
    text = text.strip()
    if text.startswith("```"):
        text = text.split("\n", 1)[-1].rsplit("```", 1)[0]
    return text
