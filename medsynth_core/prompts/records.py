"""Prompts: what is asked for, what was written, what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from medsynth_core.models.condition import Condition, RequestedFinding


@dataclass(frozen=True)
class PromptRequest:
    """What one prompt must say; no findings means a normal chest."""

    prompt_id: str
    findings: tuple[RequestedFinding, ...]
    view: str

    @property
    def content(self) -> dict[str, Any]:
        """The request as JSON has it."""
        return asdict(self)

    @property
    def condition(self) -> Condition:
        """What the prompt's images are asked to be."""
        return Condition(tuple(asdict(finding) for finding in self.findings), self.view)


@dataclass(frozen=True)
class Assignment:
    """A request to be written.

    Attributes:
        key: names the request and everything else that determines what is asked.
        attempt: counts from 0.
        complaint: why the last text was rejected, None at first.
    """

    key: str
    request: PromptRequest
    attempt: int = 0
    complaint: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens that a language model counted."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def shares(self, n: int) -> list[Usage]:
        """Returns n parts whose sums are exact."""

        def split(total: int) -> list[int]:
            return [total * (i + 1) // n - total * i // n for i in range(n)]

        return [Usage(*pair) for pair in zip(split(self.input_tokens), split(self.output_tokens), strict=True)]


@dataclass(frozen=True)
class Draft:
    """What was written for a request; ``text`` is None when nothing usable came, with the reason in ``problem``."""

    text: str | None
    problem: str | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Reply:
    """One call's worth of drafts.

    Attributes:
        assignments, drafts: in step.
        raw: what the model said, as it came.
    """

    assignments: tuple[Assignment, ...]
    drafts: tuple[Draft, ...]
    raw: str
