"""An OpenAI-compatible server asked directly: several prompts a call, several calls at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from pydantic import SecretStr

from medsynth_core.errors import BudgetError, MedsynthError, ModelOutputError, TransientError
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.messages import INSTRUCTION, failed_reply, messages_for, told_vocabulary
from medsynth_core.prompts.records import Assignment, Reply, Usage
from medsynth_core.prompts.server.chat import ChatServer, ServerBusyError
from medsynth_core.prompts.server.completion import call_bound, in_parts, split_calls
from medsynth_core.prompts.server.refusals import NO_ROOM, NoRoomError
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 3
"""Calls that may fail one after the other, beside those at once, before the server counts as down."""


def settings_of(config: OpenAIConfig, told: dict[str, Any]) -> dict[str, Any]:
    """Returns what determines the texts of a server: not how often or how fast it is asked."""
    return {
        "model": config.model,
        "base_url": config.base_url,
        "temperature": config.temperature,
        "instruction": INSTRUCTION,
        "vocabulary": told,
    }


class OpenAIProvider:
    """Asks a chat-completions server."""

    name = "openai"
    keeps = True

    def __init__(self, config: OpenAIConfig, vocabulary: Vocabulary, key: SecretStr) -> None:
        self._config = config
        self._told = told_vocabulary(vocabulary)
        self._server = ChatServer(config, key)
        self._a_call = config.prompts_per_call
        self.settings = settings_of(config, self._told)

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields a reply a call, ``prompts_per_call`` requests a call, ``concurrency`` calls at once.

        A server that has no room for so many is asked for half as many, and so on down to one.

        A call that fails in spite of all retries is left out. After a failure that ends the run, and when the
        caller goes away, calls in flight are waited for and kept.

        Raises:
            ConfigError: the server refuses the key, the model or the request.
            BudgetError: the budget is used up.
            TransientError: many calls failed one after the other.
            NotReadyError: the server asks for a long wait.
        """
        calls = deque(split_calls(assignments, self._a_call))
        in_flight: dict[Future[Reply], tuple[Assignment, ...]] = {}
        at_once = self._config.concurrency
        failures = answered = 0
        last: ServerBusyError | None = None
        end: MedsynthError | None = None
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            while in_flight or (calls and end is None):
                while calls and end is None and len(in_flight) < at_once:
                    call = calls.popleft()
                    in_flight[pool.submit(self._ask, call, account)] = call
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    call = in_flight.pop(future)
                    error = future.exception()
                    if error is None:
                        failures, answered = 0, answered + 1
                        yield future.result()
                    elif isinstance(error, BudgetError) and in_flight:  # until these are settled, it may yet suffice
                        calls.appendleft(call)
                        at_once = len(in_flight)
                    elif isinstance(error, NoRoomError) and len(call) > 1:
                        self._a_call = min(self._a_call, len(call) // 2)
                        log.info(NO_ROOM, len(call), self._a_call)
                        calls = deque(part for each in (call, *calls) for part in in_parts(each, self._a_call))
                    elif isinstance(error, ServerBusyError):
                        failures, last = failures + 1, error
                        if failures >= self._config.concurrency + _FAILURES_IN_A_ROW:
                            end = end or TransientError(
                                f"the LLM server at {self._server.client.base_url} failed {failures} calls in a row, "
                                f"the last with {error}; run again to go on: all answers so far are kept"
                            )
                    elif isinstance(error, MedsynthError):
                        end = end or error
                    else:
                        raise error
        if end is None and last is not None and not answered:
            end = TransientError(
                f"the LLM server at {self._server.client.base_url} answered no call, the last with {last}; run again "
                f"to go on: all answers so far are kept"
            )
        if end is not None:
            raise end

    def _ask(self, assignments: tuple[Assignment, ...], account: Account) -> Reply:
        messages = messages_for(assignments, self._told)
        n = len(assignments)
        bound = call_bound(self._config, messages, n)
        try:
            number, completion = self._server.complete(
                messages, n, bound, lambda: account.open_call(bound), account.refused
            )
        except ModelOutputError as error:
            reply = failed_reply(assignments, "", f"answer: {error}", Usage())
            account.ledger.keep(reply)
            return reply
        reply, used = completion.reply(assignments, bound)
        account.answered(number, used, reply)
        return reply
