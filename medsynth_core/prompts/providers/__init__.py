"""Providers, one a module, that write prompt texts; ``prompts.provider`` is the name of one.

Each has ``open_provider(settings, vocabulary: Vocabulary, seed: int, device: str) -> Provider``. One may have

- ``SETTINGS``, a Section: its own section of params.yaml, ``prompts.`` and the module's name, which its functions are
  given; without it they are given an empty one;
- ``check(settings)``, called before any work, which raises a MedsynthError where the provider can't start;
- ``budget(settings) -> Budget``, where its texts cost money;
- ``expected_usage(settings, requests, vocabulary) -> tuple[int, Usage]``, the calls and tokens that it will ask for.

All are loaded with the settings, so that what is heavy is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from medsynth_core.prompts.account import Account
from medsynth_core.prompts.records import Assignment, Reply


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
