"""Providers write prompt texts; all have one signature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from medsynth_core.prompts.account import Account
from medsynth_core.prompts.records import Assignment, Reply
from medsynth_core.prompts.settings import PromptsParams
from medsynth_core.vocabulary.vocabulary import Vocabulary


class Provider(Protocol):
    """Writes prompt texts.

    Attributes:
        settings: what determines its texts, apart from the assignments.
        keeps: whether its drafts are worth keeping: they cost money or time.
    """

    name: str
    settings: dict[str, Any]
    keeps: bool

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields replies as they come, each already noted in the account; an assignment without a reply failed in a
        way that may pass.

        Raises:
            ConfigError: the server refuses the key, the model or the request.
            BudgetError: the budget is used up; what was in flight has been yielded.
            TransientError: it makes no sense to go on now.
            NotReadyError: nor to try again before the time that it says.
        """
        ...


def open_provider(params: PromptsParams, vocabulary: Vocabulary) -> Provider:
    """Returns the provider that ``prompts.provider`` names.

    Raises:
        ConfigError: it lacks a key.
        InputError: its model isn't there.
    """
    settings = params.prompts
    if settings.provider == "template":
        from medsynth_core.prompts.providers.template import TemplateProvider

        return TemplateProvider(vocabulary, params.seed)
    if settings.provider == "transformers":
        from medsynth_core.prompts.providers.local import LocalProvider

        return LocalProvider(settings.transformers, vocabulary, params.device)
    from medsynth_core.prompts.providers.batch import BatchProvider
    from medsynth_core.prompts.providers.openai import OpenAIProvider
    from medsynth_core.prompts.providers.server import key_from_environment

    kind = BatchProvider if settings.openai.mode == "batch" else OpenAIProvider
    return kind(settings.openai, vocabulary, key_from_environment())
