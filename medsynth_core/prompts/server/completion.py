"""A chat completion as an OpenAI-compatible server gives it, alone or in a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from medsynth_core.prompts.messages import ANSWER_SCHEMA, Message, failed_reply, read_answer
from medsynth_core.prompts.records import Assignment, Reply, Usage
from medsynth_core.prompts.server.settings import OpenAIConfig

FORMATS = ("json_schema", "json_object", "text")
"""Ways to ask for JSON, the strictest first; a server that refuses one is asked in the next."""
_TOKENS_A_MESSAGE = 16
_TOKENS_AN_ANSWER = 64


class _Function(BaseModel):
    arguments: Any = None

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments or "")


class _Call(BaseModel):
    function: _Function | None = None


class _Message(BaseModel):
    content: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    reasoning_content: Any = None

    @property
    def text(self) -> str:
        """What it says: its content, in parts or whole, else the arguments of a call that nobody asked it for."""
        content = self.content if isinstance(self.content, str | list) else ""
        if isinstance(content, list):
            parts = (part.get("text") if isinstance(part, dict) else part for part in content)
            content = "".join(part for part in parts if isinstance(part, str))
        calls = [*(call.function for call in self.tool_calls or ()), self.function_call]
        return content or next((call.text for call in calls if call is not None and call.arguments), "")


class _Choice(BaseModel):
    message: _Message = _Message()
    finish_reason: Any = None


class _Usage(BaseModel):
    """Servers leave out what they don't count, and count in floats."""

    prompt_tokens: float | None = None
    completion_tokens: float | None = None


class Completion(BaseModel):
    """The parts of a chat completion that are read; others are let be."""

    choices: list[_Choice]
    usage: _Usage | None = None

    def reply(self, assignments: Sequence[Assignment], bound: Usage) -> tuple[Reply, Usage]:
        """Returns the drafts in it and the tokens it cost: the bound, where the server doesn't count."""
        told = self.usage or _Usage()
        used = Usage(
            bound.input_tokens if told.prompt_tokens is None else round(told.prompt_tokens),
            bound.output_tokens if told.completion_tokens is None else round(told.completion_tokens),
        )
        raw = self.model_dump_json()
        if not self.choices:
            return failed_reply(assignments, raw, "answer: no choice in it", used), used
        choice = next((each for each in self.choices if each.message.text), self.choices[0])
        if choice.message.refusal:
            return failed_reply(assignments, raw, "answer: refused", used), used
        if choice.finish_reason == "content_filter":
            return failed_reply(assignments, raw, "answer: stopped by the server's content filter", used), used
        cut_off = None
        if choice.finish_reason == "length":
            cut_off = "answer: cut off at the token limit (prompts.openai.tokens_per_prompt)"
        if not choice.message.text:
            thought = " but a thought (a reasoning model needs more prompts.openai.tokens_per_prompt)"
            problem = cut_off or f"answer: empty{thought if choice.message.reasoning_content else ''}"
            return failed_reply(assignments, raw, problem, used), used
        reply = read_answer(assignments, choice.message.text, used, cut_off)
        return Reply(reply.assignments, reply.drafts, raw), used


def call_body(config: OpenAIConfig, messages: list[Message], n: int, form: str, limit_name: str) -> dict[str, Any]:
    """Returns the body of a call that asks for ``n`` texts.

    Args:
        form: one of ``FORMATS``.
        limit_name: what the server calls the limit of an answer: max_completion_tokens, or max_tokens in older ones.
    """
    body: dict[str, Any] = {"model": config.model, "messages": messages, limit_name: answer_limit(config, n)}
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if form == "json_schema":
        schema = {"name": "prompts", "strict": True, "schema": ANSWER_SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def answer_limit(config: OpenAIConfig, n: int) -> int:
    """Returns how many tokens an answer of ``n`` texts may have."""
    return _TOKENS_AN_ANSWER + config.tokens_per_prompt * n


def call_bound(config: OpenAIConfig, messages: list[Message], n: int) -> Usage:
    """Returns the tokens that a call uses at most: a token is a byte at least."""
    told = sum(len(message["content"].encode()) + _TOKENS_A_MESSAGE for message in messages)
    return Usage(told + len(json.dumps(ANSWER_SCHEMA)), answer_limit(config, n))


def split_calls(assignments: Sequence[Assignment], a_call: int) -> list[tuple[Assignment, ...]]:
    """Returns the assignments in calls of ``a_call``: of fewer, the more often they were asked for."""
    calls: list[tuple[Assignment, ...]] = []
    for attempt in sorted({a.attempt for a in assignments}):
        calls += in_parts([a for a in assignments if a.attempt == attempt], max(1, a_call >> attempt))
    return calls


def in_parts(assignments: Sequence[Assignment], size: int) -> list[tuple[Assignment, ...]]:
    """Returns the assignments in parts of ``size``, the last one of what is left."""
    return [tuple(assignments[start : start + size]) for start in range(0, len(assignments), size)]
