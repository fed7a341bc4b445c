"""The OpenAI provider against a real HTTP server that answers, refuses and fails as asked."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from benchmarks.llm_server import FAULTS, LLMServer, completion, failing
from medsynth_core.config import Paths
from medsynth_core.errors import BudgetError, ConfigError, NotReadyError, StateError, TransientError
from medsynth_core.progress import silent
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.providers.openai import budget
from medsynth_core.prompts.records import Assignment, Draft
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.server import chat
from medsynth_core.prompts.server.direct import OpenAIProvider
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.params import dump_config
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config
from tests.conftest import tiny

pytestmark = pytest.mark.integration


@pytest.fixture
def assignments(trained: tuple[Config, Paths], vocabulary: Vocabulary) -> list[Assignment]:
    requests = sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0)
    return [Assignment(request.prompt_id, request) for request in requests]


def settings(server: LLMServer, **changes: Any) -> OpenAIConfig:
    given = {"concurrency": 1, "max_retries": 2, "prompts_per_call": 3, "timeout_s": 1.0, **changes}
    return OpenAIConfig(base_url=server.url, **given)


def written(
    server: LLMServer,
    vocabulary: Vocabulary,
    assignments: list[Assignment],
    account: Account | None = None,
    **changes: Any,
) -> list[Draft]:
    config = settings(server, **changes)
    provider = OpenAIProvider(config, vocabulary, SecretStr("key-that-must-stay-secret"))
    replies = provider.write(assignments, account or Account(Ledger(None), "plan", budget(config)))
    return [draft for reply in replies for draft in reply.drafts]


def test_several_prompts_a_call_and_tokens_are_shared_out(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    drafts = written(server, vocabulary, assignments)
    assert len(drafts) == 6
    assert all(draft.text for draft in drafts)
    assert len(server.bodies) == 2
    assert sum(draft.usage.input_tokens for draft in drafts) == 800
    assert sum(draft.usage.output_tokens for draft in drafts) == 202
    body = json.loads(server.bodies[0].partition(b"\n\n")[2])
    assert body["response_format"]["type"] == "json_schema"


def test_a_busy_server_is_asked_again_no_earlier_than_it_says(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(429, {"Retry-After": "1"}), failing(503)]
    assert written(server, vocabulary, assignments[:1])[0].text
    assert len(server.arrivals) == 3
    assert server.arrivals[1] - server.arrivals[0] >= 1.0


def test_a_server_that_asks_for_a_long_wait_ends_the_run(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(429, {"Retry-After": "3600"})]
    with pytest.raises(NotReadyError, match=r"asks to wait 3600 s.*start the run again at \d{4}-\d\d-\d\d \d\d:\d\d"):
        written(server, vocabulary, assignments[:1])
    assert len(server.bodies) == 1


def test_a_call_that_stays_busy_is_left_out_and_a_server_that_does_ends_the_run(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(500)] * 3
    assert len(written(server, vocabulary, assignments)) == 3
    server.script = [failing(500)] * 100
    with pytest.raises(TransientError, match="failed 4 calls in a row"):
        written(server, vocabulary, assignments, prompts_per_call=1, max_retries=0)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_is_a_configuration_error(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], status: int
) -> None:
    server.script = [failing(status)]
    with pytest.raises(ConfigError, match="LLM server") as caught:
        written(server, vocabulary, assignments[:1])
    assert "key-that-must-stay-secret" not in str(caught.value)


def test_a_used_up_quota_is_not_retried(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(429, code="insufficient_quota")]
    with pytest.raises(ConfigError, match="quota"):
        written(server, vocabulary, assignments[:1])
    assert len(server.bodies) == 1


def test_a_server_without_schemas_is_asked_in_its_own_way(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [
        failing(400, message="Unsupported parameter: max_completion_tokens"),
        failing(400, message="no json_schema"),
        failing(422, message="no response_format"),
    ]
    drafts = written(server, vocabulary, assignments)
    assert all(draft.text for draft in drafts)
    bodies = [json.loads(body.partition(b"\n\n")[2]) for body in server.bodies]
    assert [body.get("response_format", {}).get("type") for body in bodies] == [
        "json_schema", "json_schema", "json_object", None, None,
    ]  # fmt: skip
    assert ["max_tokens" in body for body in bodies] == [False, True, True, True, True]


def test_a_server_that_refuses_every_way_is_a_configuration_error(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(400, message="the context is too long")] * 9
    with pytest.raises(ConfigError, match="the context is too long"):
        written(server, vocabulary, assignments[:1])


@pytest.mark.parametrize("name", ["malformed JSON", "another schema", "refusal", "no choice", "cut off"])
def test_an_unusable_answer_is_a_draft_with_a_problem_and_is_paid(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    account = Account(Ledger(None), "plan", budget(settings(server)))
    server.script = [FAULTS[name]]
    draft = written(server, vocabulary, assignments[:1], account)[0]
    assert draft.text is None
    assert draft.problem is not None
    assert draft.problem.startswith("answer:")
    assert account.ledger.spent("plan")[0] == 501


@pytest.mark.parametrize("name", ["time-out", "reset in the body"])
def test_an_answer_that_may_have_been_paid_is_asked_for_again_and_counted(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    account = Account(Ledger(None), "plan", budget(settings(server)))
    server.script = [FAULTS[name]]
    assert written(server, vocabulary, assignments[:1], account)[0].text
    assert account.ledger.unsettled("plan") == 1
    assert account.ledger.spent("plan")[0] > 2 * 501


@pytest.mark.parametrize("data", [b'"busy"', b'{"detail": "queued"}', b"[]"])
def test_a_body_that_is_no_completion_is_asked_for_again(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], data: bytes
) -> None:
    server.script = [lambda _: (200, {}, data)]
    assert written(server, vocabulary, assignments[:1])[0].text
    assert len(server.bodies) == 2


def test_answers_are_read_out_of_fences_prose_and_thoughts(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    text = '<think>{"a": 1}</think>Here it is:\n```json\n{"prompts": [{"id": "1", "text": "Clear."}]}\n```'
    server.script = [lambda _: completion(text)]
    assert written(server, vocabulary, assignments[:1])[0].text == "Clear."


def test_calls_keep_to_the_rate_limit(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_RATE_WINDOW_MS", 1000)
    written(server, vocabulary, assignments, prompts_per_call=1, concurrency=6, requests_per_minute=2)
    assert len(server.arrivals) == 6
    assert server.arrivals[-1] - server.arrivals[0] >= 1.9


def test_a_call_above_the_token_rate_is_a_configuration_error(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    with pytest.raises(ConfigError, match="tokens_per_minute=100"):
        written(server, vocabulary, assignments, tokens_per_minute=100)
    assert not server.bodies


def test_a_ledger_in_use_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "prompts.sqlite")
    script = "from pathlib import Path; from medsynth_core.prompts.ledger import Ledger; Ledger(Path('prompts.sqlite'))"
    other = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "in use by another run" in other.stderr
    ledger.close()
    (tmp_path / "prompts.sqlite").write_text("no database, but long enough to be looked at")
    with pytest.raises(StateError, match="no prompt ledger"):
        Ledger(tmp_path / "prompts.sqlite")


def workspace_of(trained: tuple[Config, Paths], root: Path, server: LLMServer, n: int, **openai: Any) -> Config:
    """Makes a workspace with the trained one's vocabulary that has ``n`` prompts written by the server."""
    (root / "data").mkdir(parents=True)
    (root / "data" / "vocabulary").symlink_to(trained[1]["vocabulary"])
    given = {"concurrency": 8, "max_retries": 8, "timeout_s": 1.0, "base_url": server.url, **openai}
    config = tiny(prompts={"n": n, "provider": "openai", "max_similarity": 1.0, "openai": given})
    (root / "params.yaml").write_text(dump_config(config))
    return config


def prompts_process(root: Path) -> subprocess.Popen[str]:
    script = (
        "from pathlib import Path\n"
        "from medsynth_core.workspace.stages import perform\n"
        "from medsynth_core.workspace.params import load_config\n"
        "from medsynth_core.progress import silent\n"
        "from medsynth_core.prompts import stage\n"
        "perform('prompts', load_config(Path('params.yaml')), Path(), silent)\n"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "any"}
    return subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environment, text=True)


def test_two_thousand_prompts_with_a_fifth_of_all_calls_failing_and_a_kill(
    trained: tuple[Config, Paths], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Every request is accepted or accounted for; the kill loses the calls in flight alone; nothing is paid twice."""
    server = LLMServer(vocabulary, fault_rate=0.2)
    root = tmp_path / "workspace"
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 4.0, "budget_usd": 20.0}
    config = workspace_of(trained, root, server, 2000, **prices)
    first = prompts_process(root)
    while len(server.answered) < 60 and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(2.5)  # until the calls that were in flight have come to their end
    paid_before = server.answered.copy()
    second = prompts_process(root)
    assert second.wait(300) == 0
    account = json.loads((root / "data" / "prompts" / "account.json").read_text())
    server.close()

    assert account["requested"] == 2000 == account["accepted"] + sum(account["rejected"].values())
    accepted = pq.read_table(root / "data" / "prompts" / "prompts.parquet").to_pylist()
    rejected = pq.read_table(root / "data" / "prompts" / "rejected.parquet").to_pylist()
    names = [row["prompt_id"] for row in accepted + rejected]
    assert sorted(names) == [f"p{i:05d}" for i in range(2000)]
    assert account["accepted"] == len({row["text"] for row in accepted}) >= 1900
    assert set(server.faults) == set(FAULTS), "every kind of failure came up"
    # Of those that were paid before the kill: later, different prompts may make calls of the same content.
    again = [call for call, times in paid_before.items() if server.answered[call] > times]
    assert len(again) <= config.prompts.openai.concurrency, "only calls in flight at the kill are asked for again"
    with closing(sqlite3.connect(workspace_paths(root).prompt_ledger)) as ledger:
        query = "SELECT COUNT(*) FROM replies WHERE id NOT IN (SELECT reply FROM drafts)"
        assert ledger.execute(query).fetchone() == (0,), "no draft that is kept is asked for again"
    assert len(paid_before) >= 60
    prices_of = account["spent_usd"], account["spent_tokens"]
    assert prices_of[0] <= 20.0
    assert server.tokens <= prices_of[1], "what was paid is noted, and no less"


def test_a_budget_is_never_exceeded_and_a_higher_one_goes_on(
    trained: tuple[Config, Paths], vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    server = LLMServer(vocabulary)
    paths = workspace_paths(tmp_path / "workspace")
    config = workspace_of(trained, paths.root, server, 200, budget_tokens=12_000)
    for _ in range(2):
        with pytest.raises(BudgetError, match=r"budget_tokens=12000: \d+ tokens are spent"):
            perform("prompts", config, paths.root, silent)
        assert 6_000 < server.tokens <= 12_000
    calls = sum(server.answered.values())
    higher = config.prompts.openai.model_copy(update={"budget_tokens": 400_000})
    config = config.model_copy(update={"prompts": config.prompts.model_copy(update={"openai": higher})})
    report = perform("prompts", config, paths.root, silent)
    assert report.accepted + sum(report.rejected.values()) == 200
    assert sum(server.answered.values()) > calls
    assert set(server.answered.values()) == {1}
    assert report.spent_tokens == server.tokens <= 400_000
    n_bodies = len(server.bodies)
    assert perform("prompts", config, paths.root, silent) == report
    assert len(server.bodies) == n_bodies, "a second run asks nothing"
    more = config.model_copy(update={"prompts": config.prompts.model_copy(update={"n": 210})})
    report = perform("prompts", more, paths.root, silent)
    assert report.requested == 210
    assert set(server.answered.values()) == {1}
    server.close()
