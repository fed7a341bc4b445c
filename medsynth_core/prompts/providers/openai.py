"""An OpenAI-compatible server writes the texts."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pydantic import SecretStr

from medsynth_core.errors import ConfigError
from medsynth_core.prompts.account import Budget, Prices
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.records import PromptRequest, Usage
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary

SETTINGS = OpenAIConfig


def open_provider(settings: OpenAIConfig, vocabulary: Vocabulary, seed: int, device: str) -> Provider:
    """Returns what asks the server, in ``settings.mode``.

    Raises:
        ConfigError: there is no key.
    """
    from medsynth_core.prompts.server.batch import BatchProvider
    from medsynth_core.prompts.server.direct import OpenAIProvider

    kind = BatchProvider if settings.mode == "batch" else OpenAIProvider
    return kind(settings, vocabulary, _key())


def check(settings: OpenAIConfig) -> None:
    """Checks that there is a key.

    Raises:
        ConfigError: there is none.
    """
    _key()


def budget(settings: OpenAIConfig) -> Budget:
    """Returns what a plan may cost."""
    prices = Prices(settings.usd_per_million_input, settings.usd_per_million_output)
    return Budget("prompts.openai", prices, settings.budget_usd, settings.budget_tokens)


def expected_usage(
    settings: OpenAIConfig, requests: Sequence[PromptRequest], vocabulary: Vocabulary
) -> tuple[int, Usage]:
    """Returns the calls and tokens that the requests will take, about."""
    from medsynth_core.prompts.server.expected import expected_usage

    return expected_usage(settings, requests, vocabulary)


def _key() -> SecretStr:
    """Returns the key of OPENAI_API_KEY.

    Raises:
        ConfigError: the variable isn't set.
    """
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        raise ConfigError(
            "prompts.provider is openai, but OPENAI_API_KEY is not set; export it (any value for a local server)"
        )
    return SecretStr(key)
