"""Refusals of a language model's server that no other way of asking mends, each with what to do."""

from __future__ import annotations

from typing import Any

from medsynth_core.errors import ConfigError
from medsynth_core.prompts.server.settings import OpenAIConfig

_SHOWN = 200
"""Characters of what a server says."""
NO_ROOM = "LLM server: no room for %d texts a call, so %d are asked for (prompts.openai.prompts_per_call)"
"""What is logged when fewer texts a call are asked for."""
_TOO_LONG = ("context length", "context window", "maximum context", "context size", "max_model_len", "too many tokens")


class NoRoomError(ConfigError):
    """The server has no room for a call of that length; one that asks for fewer texts may have it."""


def shown(said: str) -> str:
    """Returns what a server says, on one line and not too long."""
    return " ".join(said.split())[:_SHOWN]


def words_of(error: Any) -> str:
    """Returns what an answer's ``error`` says, which may be an object or the words themselves."""
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or error)


def refusal(status: int, said: str, code: str | None, config: OpenAIConfig) -> ConfigError | None:
    """Returns the error that tells of a refusal; None of one that is of another kind.

    Args:
        status: of HTTP.
        said: the server's words, whole.
        code: the server's own.
    """
    words = said.lower()
    if status == 404 and "model" in words:
        return ConfigError(f"the LLM server knows no model {config.model!r}; set prompts.openai.model or base_url")
    if any(phrase in words for phrase in _TOO_LONG) or code == "context_length_exceeded":
        return NoRoomError(
            f"the LLM server has no room for a call of that length, even for one text: {shown(said)}; lower "
            f"prompts.openai.tokens_per_prompt or choose a model with a longer context"
        )
    if "temperature" in words:
        return ConfigError(
            f"the LLM server takes no temperature of {config.temperature}: {shown(said)}; set "
            f"prompts.openai.temperature=null"
        )
    return None
