"""The Batch API of an OpenAI-compatible server: handed in today, answered within a day, resumable in between."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import uuid4

import openai
from openai.types import Batch
from pydantic import SecretStr, ValidationError

from medsynth_core.errors import BudgetError, ConfigError, NotReadyError, TransientError
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.ledger import KeptBatch
from medsynth_core.prompts.messages import messages_for, told_vocabulary
from medsynth_core.prompts.records import Assignment, PromptRequest, Reply, Usage
from medsynth_core.prompts.server.chat import clock
from medsynth_core.prompts.server.completion import FORMATS, Completion, call_body, call_bound, split_calls
from medsynth_core.prompts.server.direct import settings_of
from medsynth_core.prompts.server.refusals import NO_ROOM, NoRoomError, refusal, shown, words_of
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_CALLS_A_BATCH = 50_000
_BYTES_A_BATCH = 190_000_000
_WINDOW_S = 24 * 3600
"""Within which a server promises to answer a batch."""
_ENDPOINT: Final = "/v1/chat/completions"
_MARK = "medsynth"
_RECENT_BATCHES = 1000
_ANOTHER_PLANS = PromptRequest("", (), "")
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True)
class _Call:
    """What a call of a batch is for: draft keys with their attempts, the try it is noted as, and its bound."""

    asked: tuple[tuple[str, int], ...]
    number: int
    bound: Usage


class _Refused(NamedTuple):
    """How a call was refused: status of HTTP, the server's words, its code."""

    status: int
    said: str
    code: str | None


class BatchProvider:
    """Hands in batches and fetches their answers.

    A batch is noted in the ledger before it exists, and carries the ledger's name for it: a run that was killed at
    any instant finds it again, by its name if need be, and never hands it in twice.
    """

    name = "openai"
    keeps = True

    def __init__(self, config: OpenAIConfig, vocabulary: Vocabulary, key: SecretStr) -> None:
        self._config = config
        self._told = told_vocabulary(vocabulary)
        self._client = openai.OpenAI(
            api_key=key.get_secret_value(),
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )
        self._a_call = config.prompts_per_call
        self.settings = settings_of(config, self._told)

    def write(self, assignments: Sequence[Assignment], account: Account) -> Iterator[Reply]:
        """Yields the replies of batches that are out, then of new ones for the other assignments.

        A server that has no room for so many texts a call is asked for half as many, and so on down to one.

        Raises:
            ConfigError: the server refuses the key, the model or the batch.
            BudgetError: the budget suffices for no call. Where it suffices for some, these are yielded: once they
                are settled, it may suffice for more.
            TransientError: the server fails.
            NotReadyError: a batch isn't ready within ``batch_wait_h``.
        """
        wanted = {(a.key, a.attempt): a for a in assignments}
        answered, a_call = 0, self._a_call
        try:
            out = {key for kept in account.ledger.batches() for call in _calls(kept).values() for key in call.asked}
            end = self._hand_in([a for key, a in wanted.items() if key not in out], account)
            for kept in account.ledger.batches():
                if any(key in wanted for call in _calls(kept).values() for key in call.asked):
                    for reply in self._settle(kept, wanted, account):
                        answered += 1
                        yield reply
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(f"the LLM server refused OPENAI_API_KEY (HTTP {error.status_code})") from error
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise TransientError(
                f"the LLM server at {self._client.base_url} failed ({type(error).__name__}); run again to go on: "
                f"batches that are out are kept"
            ) from error
        except openai.APIStatusError as error:
            raise ConfigError(
                f"the LLM server refused a batch (HTTP {error.status_code}): {error.message[:200]}; "
                f"set prompts.openai.mode=direct if it has no Batch API"
            ) from error
        if answered:
            return
        if end is not None:
            raise end
        if self._a_call < a_call:
            yield from self.write(assignments, account)

    def _hand_in(self, assignments: list[Assignment], account: Account) -> BudgetError | None:
        """Hands in as many calls as the budget allows; returns what stopped it."""
        lines: list[bytes] = []
        calls: dict[str, _Call] = {}
        size = 0
        for call in split_calls(assignments, self._a_call):
            messages = messages_for(call, self._told)
            bound = call_bound(self._config, messages, len(call))
            try:
                number = account.open_call(bound)
            except BudgetError as error:
                self._create(lines, calls, account)
                return error
            name = f"call-{number}"
            body = call_body(self._config, messages, len(call), FORMATS[0], "max_completion_tokens")
            line = json.dumps({"custom_id": name, "method": "POST", "url": _ENDPOINT, "body": body}).encode() + b"\n"
            if len(lines) == _CALLS_A_BATCH or size + len(line) > _BYTES_A_BATCH:
                self._create(lines, calls, account)
                lines, calls, size = [], {}, 0
            calls[name] = _Call(tuple((a.key, a.attempt) for a in call), number, bound)
            lines.append(line)
            size += len(line)
        self._create(lines, calls, account)
        return None

    def _create(self, lines: list[bytes], calls: dict[str, _Call], account: Account) -> None:
        if not lines:
            return
        name = uuid4().hex
        account.ledger.add_batch(name, {key: _plain(call) for key, call in calls.items()})
        try:
            self._submit(name, lines, account)
        except openai.APIStatusError as error:
            if error.status_code < 500 and error.status_code != 429:  # refused: nothing was handed in
                self._forget(name, calls.values(), account)
            raise

    def _submit(self, name: str, lines: Sequence[bytes], account: Account) -> None:
        file = self._client.files.create(file=(f"{name}.jsonl", b"".join(lines)), purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id, endpoint=_ENDPOINT, completion_window="24h", metadata={_MARK: name}
        )
        account.ledger.name_batch(name, batch.id)
        log.info("LLM server: batch %s handed in, %d calls", batch.id, len(lines))

    def _settle(self, kept: KeptBatch, wanted: dict[tuple[str, int], Assignment], account: Account) -> Iterator[Reply]:
        """Waits for a batch and yields its replies; calls that weren't answered cost nothing and are left out."""
        calls = _calls(kept)
        batch = self._find(kept)
        if batch is None:
            log.warning("LLM server: a batch that was being handed in never arrived; it is handed in again")
            self._forget(kept.name, calls.values(), account)
            return
        batch = self._wait(batch)
        if batch.status == "failed":
            said = "; ".join(error.message or "" for error in (batch.errors.data if batch.errors else None) or [])
            self._forget(kept.name, calls.values(), account)
            raise ConfigError(f"the LLM server refused batch {batch.id}: {said[:300] or 'no reason given'}")
        answered: set[str] = set()
        refused: ConfigError | None = None
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._client.files.content(file).text.splitlines():
                name, result = _result(line)
                if isinstance(result, _Refused):
                    refused = self._refusal(result, len(calls[name].asked) if name in calls else 1) or refused
                elif name in calls and name not in answered:
                    answered.add(name)
                    yield _keep(calls[name], wanted, result, account)
        self._forget(kept.name, [call for name, call in calls.items() if name not in answered], account)
        if not answered and refused is not None and batch.status == "completed":
            raise ConfigError(f"{refused} (it refused every call of batch {batch.id})") from refused

    def _refusal(self, refused: _Refused, n: int) -> ConfigError | None:
        """Returns what ends a run when a call for ``n`` texts is refused; None where fewer a call may mend it."""
        told = refusal(*refused, self._config)
        if isinstance(told, NoRoomError) and n > 1:
            if n // 2 < self._a_call:
                log.info(NO_ROOM, n, n // 2)
                self._a_call = n // 2
            return None
        return told or ConfigError(f"the LLM server refused the request: {shown(refused.said)}")

    def _find(self, kept: KeptBatch) -> Batch | None:
        if kept.batch is not None:
            return self._client.batches.retrieve(kept.batch)
        for number, batch in enumerate(self._client.batches.list(limit=100)):
            if (batch.metadata or {}).get(_MARK) == kept.name:
                return batch
            if number >= _RECENT_BATCHES:
                break
        return None

    def _wait(self, batch: Batch) -> Batch:
        until = time.monotonic() + self._config.batch_wait_h * 3600
        while batch.status not in _ENDED:
            if time.monotonic() >= until:
                counts = batch.request_counts
                done = f"{counts.completed} of {counts.total} calls" if counts else batch.status
                ends = batch.expires_at or batch.created_at + _WINDOW_S
                raise NotReadyError(
                    f"batch {batch.id} isn't ready after prompts.openai.batch_wait_h={self._config.batch_wait_h:g} "
                    f"({done}); it ends by {clock(ends)}: start the run again then, or earlier, and it goes on "
                    f"waiting for this batch, which is paid once"
                )
            time.sleep(self._config.batch_poll_s)
            batch = self._client.batches.retrieve(batch.id)
        return batch

    def _forget(self, name: str, unanswered: Iterable[_Call], account: Account) -> None:
        for call in unanswered:
            account.refused(call.number)
        account.ledger.drop_batch(name)


def _plain(call: _Call) -> dict[str, Any]:
    return {"asked": call.asked, "number": call.number, "bound": [call.bound.input_tokens, call.bound.output_tokens]}


def _calls(kept: KeptBatch) -> dict[str, _Call]:
    return {
        name: _Call(tuple((key, attempt) for key, attempt in call["asked"]), call["number"], Usage(*call["bound"]))
        for name, call in kept.calls.items()
    }


def _result(line: str) -> tuple[str, Completion | _Refused]:
    """Returns the call's name and its completion, or how it was refused, of a line of a result file."""
    try:
        value = json.loads(line)
        response = value.get("response") or {}
        if value.get("error") or response.get("status_code") != 200:
            error = value.get("error") or (response.get("body") or {}).get("error") or response
            code = error.get("code") if isinstance(error, dict) else None
            return str(value["custom_id"]), _Refused(response.get("status_code") or 400, words_of(error), code)
        return str(value["custom_id"]), Completion.model_validate(response["body"])
    except (json.JSONDecodeError, ValidationError, KeyError, AttributeError) as error:
        return "", _Refused(200, f"a line that is no result ({type(error).__name__})", None)


def _keep(call: _Call, wanted: dict[tuple[str, int], Assignment], completion: Completion, account: Account) -> Reply:
    """Notes a call's answer, also for requests that another plan made, and returns it."""
    assignments = [
        wanted.get((key, attempt)) or Assignment(key, _ANOTHER_PLANS, attempt) for key, attempt in call.asked
    ]
    reply, used = completion.reply(assignments, call.bound)
    account.answered(call.number, used, reply)
    return reply
