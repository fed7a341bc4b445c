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


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class Completion(BaseModel):
    """The parts of a chat completion that are read; others are let be."""

    choices: list[_Choice]
    usage: _Usage | None = None

    def reply(self, assignments: Sequence[Assignment], bound: Usage) -> tuple[Reply, Usage]:
        """Returns the drafts in it and the tokens it cost: the bound, where the server doesn't count."""
        used = bound if self.usage is None else Usage(self.usage.prompt_tokens, self.usage.completion_tokens)
        raw = self.model_dump_json()
        if not self.choices:
            return failed_reply(assignments, raw, "answer: no choice in it", used), used
        choice = self.choices[0]
        if choice.message.refusal:
            return failed_reply(assignments, raw, "answer: refused", used), used
        if choice.finish_reason == "content_filter":
            return failed_reply(assignments, raw, "answer: stopped by the server's content filter", used), used
        if choice.finish_reason == "length":
            problem = "answer: cut off at the token limit (prompts.openai.tokens_per_prompt)"
            return failed_reply(assignments, raw, problem, used), used
        if not choice.message.content:
            return failed_reply(assignments, raw, "answer: empty", used), used
        reply = read_answer(assignments, choice.message.content, used)
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


def split_calls(assignments: Sequence[Assignment], config: OpenAIConfig) -> list[tuple[Assignment, ...]]:
    """Returns the assignments in calls: fewer together, the more often they were asked for."""
    calls: list[tuple[Assignment, ...]] = []
    for attempt in sorted({a.attempt for a in assignments}):
        same = [a for a in assignments if a.attempt == attempt]
        size = max(1, config.prompts_per_call >> attempt)
        calls += [tuple(same[start : start + size]) for start in range(0, len(same), size)]
    return calls
