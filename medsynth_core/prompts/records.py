"""Prompts: what is asked for, what was written, what was rejected."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RequestedFinding:
    """A finding that a prompt must name: vocabulary terms, the patient's side, a severity."""

    pathology: str
    anatomy: str | None
    side: str
    severity: str | None


@dataclass(frozen=True)
class PromptRequest:
    """What one prompt must say; no findings means a normal chest."""

    prompt_id: str
    findings: tuple[RequestedFinding, ...]
    view: str


@dataclass(frozen=True)
class Usage:
    """Tokens that a language model counted for a prompt (its share of the call)."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Draft:
    """What a provider wrote for a request; ``text`` is None when it failed, with the reason in ``problem``."""

    text: str | None
    problem: str | None = None
    usage: Usage = field(default_factory=Usage)
