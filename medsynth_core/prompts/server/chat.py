"""One OpenAI-compatible server: rate limits, retries, and what to do about each refusal."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
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
from medsynth_core.prompts.server.refusals import refusal, shown, words_of
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.tally import count

log = logging.getLogger(__name__)

_RATE_WINDOW_MS = int(Duration.MINUTE)
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_JITTER = 0.1
_ADDRESS = "set prompts.openai.base_url to the address of its API, which as a rule ends in /v1"
_OF_FORM = ("response_format", "response format", "json", "schema", "grammar", "guided", "structured", "unsupported")
"""Words of which one is in a refusal of a way of asking."""
_UNKNOWN_HOST = ("Name or service not known", "nodename nor servname", "getaddrinfo", "Temporary failure in name")


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
        self._reached = self._good = False
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
            NoRoomError: the call is longer than it has room for.
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
        except (ConfigError, ModelOutputError, TransientError):
            refused(number)
            raise

    def _send(self, messages: list[Message], n: int) -> Completion:
        """Asks once; a server that doesn't know a way of asking is asked in the next, at no cost."""
        while True:
            form, limit_name = self._form, self._limit_name
            body = call_body(self._config, messages, n, FORMATS[form], limit_name)
            try:
                response = self.client.chat.completions.with_raw_response.create(**body)
                self._reached = True
                return self._read(response.http_response.content)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                self._reached = True
                self._adapt(error, form, limit_name)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ConfigError(f"the LLM server refused OPENAI_API_KEY (HTTP {error.status_code})") from error
            except openai.NotFoundError as error:
                if (told := self._refusal(error)) is not None:
                    raise told from error
                raise ConfigError(f"{self._at} has no chat completions (HTTP 404); {_ADDRESS}") from error
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise ConfigError(
                        "the LLM server says that the quota of OPENAI_API_KEY is used up; raise it and run again: all "
                        "answers so far are kept"
                    ) from error
                raise ServerBusyError("HTTP 429", retry_after_s(error.response.headers), False) from error
            except openai.APIStatusError as error:
                self._reached = True
                if error.status_code >= 500 and _speaks_of_form(error.message) and form + 1 < len(FORMATS):
                    self._adapt(error, form, limit_name)
                elif error.status_code in (408, 409) or error.status_code >= 500:
                    wait_s = retry_after_s(error.response.headers)
                    raise ServerBusyError(f"HTTP {error.status_code}: {shown(error.message)}", wait_s, False) from error
                else:
                    raise ConfigError(
                        f"the LLM server refused the request (HTTP {error.status_code}): {shown(error.message)}"
                    ) from error
            except openai.APIConnectionError as error:
                self._raise_unreached(error)
                raise ServerBusyError(type(error).__name__, None, True) from error

    @property
    def _at(self) -> str:
        return f"the LLM server at {self.client.base_url}"

    def _read(self, body: bytes) -> Completion:
        """Returns the completion in an answer that the server calls good.

        Raises:
            ConfigError: it is a stream of events, or a web page where no completion came before.
            ServerBusyError: it holds an error, or is none.
        """
        begins = body.lstrip()[:200]
        if begins[:1] == b"<" and not self._good:
            raise ConfigError(f"{self._at} answers with a web page; {_ADDRESS}")
        if begins.startswith((b"data:", b"event:")):
            raise ConfigError(f"{self._at} answers with a stream of events, which it wasn't asked for; turn that off")
        try:
            value = json.loads(body)
            if isinstance(value, dict) and value.get("error") and not value.get("choices"):
                raise ServerBusyError(f"an error: {shown(words_of(value['error']))}", None, False)
            completion = Completion.model_validate(value)
            self._good = True
            return completion
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
            said = begins[:60].decode("utf-8", "replace")
            raise ServerBusyError(f"an answer that is no chat completion ({said!r})", None, True) from error

    def _raise_unreached(self, error: openai.APIConnectionError) -> None:
        """Raises at once what no further try will mend: a server that was never reached.

        Raises:
            ConfigError: its certificate isn't trusted, or its name isn't known.
            TransientError: nothing listens there.
        """
        reasons = " ".join(_reasons(error))
        if "CERTIFICATE_VERIFY_FAILED" in reasons:
            raise ConfigError(
                f"{self._at} has a certificate that isn't trusted (certificate verify failed); name the one of its "
                f"authority in SSL_CERT_FILE"
            ) from error
        if self._reached:
            return
        if any(said in reasons for said in _UNKNOWN_HOST):
            raise ConfigError(f"{self._at} isn't known by that name; correct prompts.openai.base_url") from error
        if "Connection refused" in reasons or "Errno 111" in reasons:
            raise TransientError(
                f"{self._at} refuses connections: nothing listens there; start it, or correct prompts.openai.base_url"
            ) from error
        if "WRONG_VERSION_NUMBER" in reasons:
            raise ConfigError(f"{self._at} speaks no TLS; begin prompts.openai.base_url with http://") from error

    def _adapt(self, error: openai.APIStatusError, form: int, limit_name: str) -> None:
        """Takes the next way of asking after a refusal, or raises when there is none."""
        if error.code in {"content_filter", "content_policy_violation"}:
            raise ModelOutputError("refused by the server's content filter") from error
        if (told := self._refusal(error)) is not None:
            raise told from error
        said = error.message
        with self._lock:
            if (form, limit_name) != (self._form, self._limit_name):
                return  # another thread has found out already
            if limit_name in said and limit_name == "max_completion_tokens":
                self._limit_name = "max_tokens"
            elif form + 1 < len(FORMATS) and _speaks_of_form(said):
                self._form = form + 1
                log.info("LLM server: no %s; it is asked for %s", FORMATS[form], FORMATS[form + 1])
            else:
                raise ConfigError(f"the LLM server refused the request: {shown(error.message)}") from error

    def _refusal(self, error: openai.APIStatusError) -> ConfigError | None:
        return refusal(error.status_code, error.message, error.code, self._config)

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


def _speaks_of_form(said: str) -> bool:
    return any(word in said.lower() for word in _OF_FORM)


def _reasons(error: BaseException | None) -> Iterator[str]:
    """Yields what an exception and those behind it say."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


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
