"""Refusals of a language model's server that no other way of asking mends, each with what to do."""

from __future__ import annotations

from typing import Any

from medsynth_core.prompts.server.settings import OpenAIConfig

_SHOWN = 200
"""Characters of what a server says."""
_TOO_LONG = ("context length", "context window", "maximum context", "context size", "max_model_len", "too many tokens")


def shown(said: str) -> str:
    """Returns what a server says, on one line and not too long."""
    return " ".join(said.split())[:_SHOWN]


def words_of(error: Any) -> str:
    """Returns what an answer's ``error`` says, which may be an object or the words themselves."""
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or error)


def refusal(status: int, said: str, code: str | None, config: OpenAIConfig) -> str | None:
    """Returns the line that tells of a refusal; None of one that is of another kind.

    Args:
        status: of HTTP.
        said: the server's words, whole.
        code: the server's own.
    """
    words = said.lower()
    if status == 404 and "model" in words:
        return f"the LLM server knows no model {config.model!r}; set prompts.openai.model or base_url"
    if any(phrase in words for phrase in _TOO_LONG) or code == "context_length_exceeded":
        return (
            f"the LLM server has no room for a call of that length: {shown(said)}; lower "
            f"prompts.openai.prompts_per_call or tokens_per_prompt"
        )
    if "temperature" in words:
        return (
            f"the LLM server takes no temperature of {config.temperature}: {shown(said)}; set "
            f"prompts.openai.temperature=null"
        )
    return None
