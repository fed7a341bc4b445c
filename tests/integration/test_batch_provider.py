"""The Batch API against a real HTTP server: resumed across runs, never handed in twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from benchmarks.llm_server import LLMServer
from medsynth_core.config import Paths
from medsynth_core.errors import BudgetError, ConfigError, NotReadyError
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.providers.openai import budget
from medsynth_core.prompts.records import Assignment, Reply
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.server.batch import BatchProvider
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture
def assignments(trained: tuple[Config, Paths], vocabulary: Vocabulary) -> list[Assignment]:
    config = trained[0].prompts.model_copy(update={"n": 10})
    return [Assignment(r.prompt_id, r) for r in sample_requests(vocabulary, config, "frontal", seed=0)]


def settings(server: LLMServer, **changes: Any) -> OpenAIConfig:
    given = {"prompts_per_call": 3, "batch_poll_s": 0.02, "mode": "batch", "max_retries": 0, **changes}
    return OpenAIConfig(base_url=server.url, **given)


def written(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], ledger: Ledger, **changes: Any
) -> list[Reply]:
    config = settings(server, **changes)
    return list(
        BatchProvider(config, vocabulary, SecretStr("any")).write(assignments, Account(ledger, "plan", budget(config)))
    )


def texts(replies: list[Reply]) -> dict[str, str | None]:
    return {
        a.key: d.text for reply in replies for a, d in zip(reply.assignments, reply.drafts, strict=True) if a.request
    }


def test_a_batch_is_handed_in_waited_for_and_paid_once(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    ledger = Ledger(None)
    found = texts(written(server, vocabulary, assignments, ledger))
    assert sorted(found) == [a.key for a in assignments]
    assert all(found.values())
    assert len(server.batches) == 1
    assert ledger.spent("plan")[0] == server.tokens == 4 * 501
    assert not ledger.batches()
    lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    assert len({line["custom_id"] for line in lines}) == 4


def test_a_batch_that_is_not_ready_is_found_again_by_the_next_run(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], tmp_path: Path
) -> None:
    server.polls_until_done = 1000
    ledger = Ledger(tmp_path / "prompts.sqlite")
    with pytest.raises(NotReadyError, match=r"batch-0 isn't ready .*it ends by \d{4}-\d\d-\d\d \d\d:\d\d"):
        written(server, vocabulary, assignments, ledger, batch_wait_h=1e-6)
    ledger.close()
    server.polls_until_done = 0
    ledger = Ledger(tmp_path / "prompts.sqlite")
    assert len(texts(written(server, vocabulary, assignments, ledger))) == 10
    assert len(server.batches) == 1


def test_a_kill_while_a_batch_is_handed_in_does_not_hand_it_in_twice(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the batch, but its name never reached the ledger: it is found by the name that it carries."""
    ledger = Ledger(None)

    def killed(name: str, batch: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "name_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            written(server, vocabulary, assignments, ledger)
    assert len(server.batches) == 1
    assert len(texts(written(server, vocabulary, assignments, ledger))) == 10
    assert len(server.batches) == 1
    assert ledger.spent("plan")[0] == server.tokens


def test_a_batch_that_never_arrived_is_left_to_the_next_round(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BatchProvider, "_submit", killed)
        with pytest.raises(KeyboardInterrupt):
            written(server, vocabulary, assignments, ledger)
    assert written(server, vocabulary, assignments, ledger) == []
    assert ledger.spent("plan")[0] == 0
    assert len(texts(written(server, vocabulary, assignments, ledger))) == 10


def test_calls_that_expired_are_left_out_and_cost_nothing(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    expired = {"response": None, "error": {"code": "batch_expired", "message": "not in time"}}
    server.batch_line = lambda number, name: expired if number == 1 else None
    ledger = Ledger(None)
    assert len(texts(written(server, vocabulary, assignments, ledger))) == 7
    assert ledger.spent("plan")[0] == server.tokens
    assert not ledger.batches()


def test_a_batch_whose_every_call_is_refused_is_a_configuration_error(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    refused = {"response": {"status_code": 400, "body": {"error": {"message": "no such model"}}}, "error": None}
    server.batch_line = lambda number, name: refused
    with pytest.raises(ConfigError, match="no such model"):
        written(server, vocabulary, assignments, Ledger(None))


def test_batches_keep_to_the_budget(server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]) -> None:
    """As many calls are handed in as their bounds allow; what they leave of the budget is used by the next batch."""
    ledger = Ledger(None)
    found: dict[str, str | None] = {}

    def rounds() -> None:
        for _ in assignments:
            waiting = [a for a in assignments if a.key not in found]
            found.update(texts(written(server, vocabulary, waiting, ledger, budget_tokens=4500, prompts_per_call=1)))

    with pytest.raises(BudgetError, match="budget_tokens=4500"):
        rounds()
    assert len(server.batches) > 1
    assert 1 < len(found) < 10
    assert ledger.spent("plan")[0] == server.tokens <= 4500


def test_what_another_plan_handed_in_is_used(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    """More prompts are wanted while a batch is out: its answers are fetched, and only the rest is handed in."""
    server.polls_until_done = 1000
    ledger = Ledger(None)
    with pytest.raises(NotReadyError):
        written(server, vocabulary, assignments[:6], ledger, batch_wait_h=1e-6)
    server.polls_until_done = 0
    config = settings(server)
    other = Account(ledger, "another plan", budget(config))
    replies = list(BatchProvider(config, vocabulary, SecretStr("any")).write(assignments, other))
    assert len(texts(replies)) == 10
    assert [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()] == [2, 2]
