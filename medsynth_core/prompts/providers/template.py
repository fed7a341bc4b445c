"""The offline provider: findings-like prose put together from vocabulary terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medsynth_core.config.section import Section
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Reply
from medsynth_core.random import stream
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary


def open_provider(settings: Section, vocabulary: Vocabulary, seed: int, device: str) -> Provider:
    """Returns the templates."""
    return TemplateProvider(vocabulary, seed)


class TemplateProvider:
    """Writes from templates; a text depends on (seed, prompt id, attempt) and the vocabulary alone."""

    name = "template"
    keeps = False

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self.settings: dict[str, Any] = {}
        self._seed, self._phrasing = seed, Phrasing(vocabulary)

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields a text for every request; complaints only choose other wordings."""
        for assignment in assignments:
            text = self.text(assignment.request, assignment.attempt)
            yield Reply((assignment,), (Draft(text),), text)

    def text(self, request: PromptRequest, attempt: int) -> str:
        """Returns a text for a request; each attempt's is another one."""
        draw = stream(self._seed, "prompts.template", request.prompt_id, attempt)
        return self._phrasing.text(request.findings, draw, explicit=bool(attempt))
