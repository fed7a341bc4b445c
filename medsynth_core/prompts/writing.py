"""Having prompts written: rounds of asking and judging, on top of what earlier runs were answered."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from medsynth_core.errors import TransientError
from medsynth_core.hashing import sha256_json
from medsynth_core.progress import Progress
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Usage

log = logging.getLogger(__name__)
Judge = Callable[[str, PromptRequest], str | None]


@dataclass
class Written:
    """How far one request has come.

    Attributes:
        text: accepted, or the last one that was rejected.
        problem: why the last draft was rejected; None once one is accepted.
        attempts: drafts judged.
        usage: tokens of all of them.
    """

    request: PromptRequest
    text: str = ""
    problem: str | None = "answer: not asked yet"
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)

    @property
    def accepted(self) -> bool:
        """Whether a text was accepted."""
        return self.problem is None


def request_key(provider: Provider, seed: int, request: PromptRequest) -> str:
    """Returns the name of a request and of all that determines how it is asked."""
    return sha256_json([provider.name, provider.settings, seed, request.content])


def plan_key(provider: Provider, seed: int, requests: Iterable[PromptRequest]) -> str:
    """Returns the name of a whole plan, under which its cost is counted."""
    return sha256_json([provider.name, provider.settings, seed, [request.content for request in requests]])


def have_written(
    requests: Sequence[PromptRequest],
    provider: Provider,
    account: Account,
    judge: Judge,
    seed: int,
    max_attempts: int,
    progress: Progress,
) -> list[Written]:
    """Returns how each request came out, in order.

    Drafts of earlier runs are judged first, in the order in which they came; then what is missing is asked for in
    rounds. A text that is rejected is asked for again with the reason. A request whose call failed keeps its
    attempts.

    Args:
        judge: returns why a text can't be accepted, or None; called once a draft, and remembers what it accepted.

    Raises:
        ConfigError, BudgetError, NotReadyError, TransientError: as ``Provider.write`` does, or no call at all was
            answered; all answers so far are in the ledger.
    """
    state = {request_key(provider, seed, request): Written(request) for request in requests}
    n_accepted = 0

    def take(key: str, attempt: int, draft: Draft) -> None:
        nonlocal n_accepted
        written = state.get(key)
        if written is None or written.accepted or attempt != written.attempts:
            return
        _judge(written, draft, judge)
        n_accepted += written.accepted

    for kept in account.ledger.drafts(list(state)):
        take(kept.key, kept.attempt, kept.draft)
    if n_accepted:
        log.info("prompts: %d of %d are kept from earlier", n_accepted, len(requests))
    while True:
        pending = [
            Assignment(key, w.request, w.attempts, w.problem if w.attempts else None)
            for key, w in state.items()
            if not w.accepted and w.attempts < max_attempts
        ]
        if not pending:
            return list(state.values())
        answered = 0
        for reply in provider.write(pending, account):
            for assignment, draft in zip(reply.assignments, reply.drafts, strict=True):
                take(assignment.key, assignment.attempt, draft)
            answered += 1
            progress(n_accepted, len(requests), f"{answered} answers{account.said()}")
        log.info("prompts: %d of %d accepted after a round of %d", n_accepted, len(requests), len(pending))
        if not answered:
            raise TransientError(
                f"provider {provider.name}: none of {len(pending)} open prompts was answered; run again to go on: all "
                f"answers so far are kept"
            )


def rejections(written: Iterable[Written]) -> dict[str, int]:
    """Returns how many requests were rejected, by reason."""
    reasons = Counter((w.problem or "").partition(":")[0] for w in written if not w.accepted)
    return dict(sorted(reasons.items()))


def _judge(written: Written, draft: Draft, judge: Judge) -> None:
    written.attempts += 1
    written.usage = Usage(
        written.usage.input_tokens + draft.usage.input_tokens, written.usage.output_tokens + draft.usage.output_tokens
    )
    written.problem = draft.problem
    if draft.text is not None:
        written.text = draft.text
        written.problem = draft.problem or judge(draft.text, written.request)
