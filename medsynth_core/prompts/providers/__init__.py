"""Providers write prompt texts; all have one signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from medsynth_core.config.tree import PromptsConfig
from medsynth_core.prompts.records import Draft, PromptRequest
from medsynth_core.vocabulary.vocabulary import Vocabulary


class Provider(Protocol):
    """Writes prompt texts.

    ``write`` returns a draft a request, in order. ``complaints`` holds, for each request, why the last text
    was rejected (None at first); ``attempt`` counts from 0.
    """

    name: str

    def write(
        self, requests: Sequence[PromptRequest], complaints: Sequence[str | None], attempt: int
    ) -> list[Draft]: ...


def open_provider(config: PromptsConfig, vocabulary: Vocabulary, seed: int) -> Provider:
    """Returns the provider that ``prompts.provider`` names.

    Raises:
        ConfigError: it lacks a key or a model.
    """
    if config.provider == "template":
        from medsynth_core.prompts.providers.template import TemplateProvider

        return TemplateProvider(vocabulary, seed)
    from medsynth_core.prompts.providers.openai import OpenAIProvider

    return OpenAIProvider.from_environment(config.openai, vocabulary)
