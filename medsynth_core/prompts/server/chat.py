"""One OpenAI-compatible server: rate limits, retries, and what to do about each refusal."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from pydantic import SecretStr, ValidationError
from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from medsynth_core.errors import ConfigError, ModelOutputError, NotReadyError, TransientError
from medsynth_core.prompts.messages import Message
from medsynth_core.prompts.records import Usage
from medsynth_core.prompts.server.completion import FORMATS, Completion, call_body
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.tally import count

log = logging.getLogger(__name__)

_RATE_WINDOW_MS = int(Duration.MINUTE)
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_JITTER = 0.1


class ServerBusyError(TransientError):
    """One try failed in a way that may pass.

    Attributes:
        wait_s: how long the server asks to wait, or None.
        maybe_paid: whether the server may have done the work.
    """

    def __init__(self, message: str, wait_s: float | None, maybe_paid: bool) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.maybe_paid = maybe_paid


class ChatServer:
    """Sends chat completions; its methods may be called from several threads."""

    def __init__(self, config: OpenAIConfig, key: SecretStr) -> None:
        self.client = openai.OpenAI(
            api_key=key.get_secret_value(), base_url=config.base_url, timeout=config.timeout_s, max_retries=0
        )
        self._config = config
        self._limits = [
            (Limiter(InMemoryBucket([Rate(limit, _RATE_WINDOW_MS)])), counts_tokens, limit)
            for limit, counts_tokens in ((config.requests_per_minute, False), (config.tokens_per_minute, True))
            if limit is not None
        ]
        self._form = 0
        self._limit_name = "max_completion_tokens"
        self._resume_at = 0.0
        self._lock = threading.Lock()

    def complete(
        self, messages: list[Message], n: int, bound: Usage, opened: Callable[[], int], refused: Callable[[int], None]
    ) -> tuple[int, Completion]:
        """Returns the number of the try that was answered, and the completion.

        Args:
            messages: of the call.
            n: texts asked for.
            bound: tokens that the call uses at most.
            opened: called before each try; returns its number.
            refused: called with the number of a try that cost nothing.

        Raises:
            ConfigError: the server refuses the key, the model or the request.
            ModelOutputError: it won't answer this content.
            TransientError: every try failed.
            NotReadyError: the server asks for a longer wait than ``max_wait_s``.
        """
        tries = Retrying(
            stop=stop_after_attempt(self._config.max_retries + 1),
            wait=self._wait,
            retry=retry_if_exception_type(ServerBusyError),
            reraise=True,
        )
        return tries(self._try, messages, n, bound, opened, refused)

    def _try(
        self, messages: list[Message], n: int, bound: Usage, opened: Callable[[], int], refused: Callable[[int], None]
    ) -> tuple[int, Completion]:
        time.sleep(max(0.0, self._resume_at - time.monotonic()))
        for limiter, counts_tokens, limit in self._limits:
            weight = bound.total if counts_tokens else 1
            if weight > limit:
                raise ConfigError(f"a call of up to {weight} tokens is above prompts.openai.tokens_per_minute={limit}")
            limiter.try_acquire("call", weight=weight)
        number = opened()
        try:
            return number, self._send(messages, n)
        except ServerBusyError as error:
            if not error.maybe_paid:
                refused(number)
            raise
        except (ConfigError, ModelOutputError):
            refused(number)
            raise

    def _send(self, messages: list[Message], n: int) -> Completion:
        """Asks once; a server that doesn't know a way of asking is asked in the next, at no cost."""
        while True:
            form, limit_name = self._form, self._limit_name
            body = call_body(self._config, messages, n, FORMATS[form], limit_name)
            try:
                response = self.client.chat.completions.with_raw_response.create(**body)
                return Completion.model_validate(json.loads(response.http_response.content))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                self._adapt(error, form, limit_name)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ConfigError(f"the LLM server refused OPENAI_API_KEY (HTTP {error.status_code})") from error
            except openai.NotFoundError as error:
                raise ConfigError(
                    f"the LLM server knows no model {self._config.model!r}; set prompts.openai.model or base_url"
                ) from error
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise ConfigError(
                        "the LLM server says that the quota of OPENAI_API_KEY is used up; raise it and run again: all "
                        "answers so far are kept"
                    ) from error
                raise ServerBusyError("HTTP 429", retry_after_s(error.response.headers), False) from error
            except openai.APIStatusError as error:
                if error.status_code in (408, 409) or error.status_code >= 500:
                    wait_s = retry_after_s(error.response.headers)
                    raise ServerBusyError(f"HTTP {error.status_code}", wait_s, False) from error
                raise ConfigError(
                    f"the LLM server refused the request (HTTP {error.status_code}): {error.message[:200]}"
                ) from error
            except openai.APIConnectionError as error:
                raise ServerBusyError(type(error).__name__, None, True) from error
            except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
                raise ServerBusyError("an answer that is no chat completion", None, True) from error

    def _adapt(self, error: openai.APIStatusError, form: int, limit_name: str) -> None:
        """Takes the next way of asking after a refusal, or raises when there is none."""
        if error.code in {"content_filter", "content_policy_violation"}:
            raise ModelOutputError("refused by the server's content filter") from error
        with self._lock:
            if (form, limit_name) != (self._form, self._limit_name):
                return  # another thread has found out already
            if limit_name in error.message and limit_name == "max_completion_tokens":
                self._limit_name = "max_tokens"
            elif form + 1 < len(FORMATS):
                self._form = form + 1
                log.info("LLM server: no %s; it is asked for %s", FORMATS[form], FORMATS[form + 1])
            elif limit_name == "max_completion_tokens":
                self._limit_name = "max_tokens"
            else:
                raise ConfigError(f"the LLM server refused the request: {error.message[:200]}") from error

    def _wait(self, state: RetryCallState) -> float:
        """Returns how long to wait after a failed try: what the server asks, else longer each time, with jitter."""
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, ServerBusyError)
        jittered = wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)(state)
        wait_s = jittered if error.wait_s is None else error.wait_s + _JITTER * jittered
        if error.wait_s is not None and error.wait_s > self._config.max_wait_s:
            raise NotReadyError(
                f"the LLM server asks to wait {error.wait_s:.0f} s, more than prompts.openai.max_wait_s="
                f"{self._config.max_wait_s:g}; start the run again at {clock(time.time() + error.wait_s)}: it "
                f"goes on, all answers so far are kept"
            )
        if error.wait_s is not None:  # a server that is busy is busy for every thread
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + wait_s)
        log.debug("LLM server: %s; next try in %.1f s", error, wait_s)
        count("retries", of="llm")
        return wait_s


def clock(seconds: float) -> str:
    """Returns date and time of day here, up to the next minute, of seconds since 1970."""
    return datetime.fromtimestamp(60 * math.ceil(seconds / 60)).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def retry_after_s(headers: Any) -> float | None:
    """Returns the seconds of a Retry-After header (a number or a date), or None."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if value is None else max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(str(value)) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
