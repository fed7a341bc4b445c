"""Refusals of a language model's server that no other way of asking mends, each with what to do."""

from __future__ import annotations

from medsynth_core.prompts.server.settings import OpenAIConfig

_TOO_LONG = ("context length", "context window", "maximum context", "context size", "max_model_len", "too many tokens")


def refusal(status: int, said: str, code: str | None, config: OpenAIConfig) -> str | None:
    """Returns the line that tells of a refusal; None of one that is of another kind.

    Args:
        status: of HTTP.
        said: the server's words.
        code: the server's own.
    """
    words = said.lower()
    if status == 404 and "model" in words:
        return f"the LLM server knows no model {config.model!r}; set prompts.openai.model or base_url"
    if any(phrase in words for phrase in _TOO_LONG) or code == "context_length_exceeded":
        return (
            f"the LLM server has no room for a call of that length: {said}; lower prompts.openai.prompts_per_call or "
            f"tokens_per_prompt"
        )
    if "temperature" in words:
        return (
            f"the LLM server takes no temperature of {config.temperature}: {said}; set prompts.openai.temperature=null"
        )
    return None
