"""Shards that fail, under Prefect's own engine and server: which of the others are still begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from prefect import task

from flows import augment
from flows.runner import task_runner
from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, MedsynthError, StoreError, TransientError
from medsynth_core.progress import Progress
from medsynth_core.workspace.tree import Config
from tasks.retry import is_transient
from tasks.shards import Todo

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


class Shards:
    """Stands for the shards' worker, so that each shard fails as it is told.

    Attributes:
        begun: shards, a number each try.
        shown: what the progress said.
    """

    def __init__(self, failures: Mapping[int, MedsynthError], monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[int] = []
        self.shown: list[tuple[int, int]] = []

        @task(name="shard", retry_delay_seconds=0, retry_condition_fn=is_transient, cache_policy=None)
        def make_shard(root: str, config: Config, run_id: str, shard: int) -> dict[str, Any]:
            self.begun.append(shard)
            if shard in failures:
                raise failures[shard]
            return {"shard": shard, "requested": 2, "accepted": 2, "rejected": {}, "counted": []}

        @contextmanager
        def shown(*_: object) -> Iterator[Progress]:
            yield lambda done, total, detail="": self.shown.append((done, total))

        monkeypatch.setattr(augment, "make_shard", make_shard)
        monkeypatch.setattr(augment, "shown", shown)

    def make(self, config: Config, missing: int, n_shards: int, in_flight: int) -> int:
        """Runs the flow on the last ``missing`` of ``n_shards`` shards, each with one retry."""
        runner = config.runner.model_copy(update={"in_flight": in_flight, "retries": 1})
        config = config.model_copy(update={"runner": runner})
        todo = Todo(1, "run", n_shards, tuple(range(n_shards - missing, n_shards)))
        return augment.synthesise.with_options(task_runner=task_runner(runner))("root", config, todo)


@pytest.fixture(scope="module")
def config(trained: tuple[Config, Paths]) -> Config:
    return trained[0]


@pytest.mark.parametrize("failure", [ConfigError("the shard outgrows"), StoreError("access denied")])
def test_no_shard_is_begun_after_a_failure_that_no_retry_can_mend(
    config: Config, failure: MedsynthError, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards({3: failure}, monkeypatch)
    with pytest.raises(type(failure), match=str(failure)):
        shards.make(config, missing=12, n_shards=14, in_flight=1)
    assert shards.begun == [2, 3]
    assert shards.shown == [(3, 14), (3, 14)], "a failed shard isn't one that is done"


def test_what_is_in_flight_is_awaited(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards({0: ConfigError("the shard outgrows")}, monkeypatch)
    with pytest.raises(ConfigError):
        shards.make(config, missing=20, n_shards=20, in_flight=3)
    begun = set(shards.begun)
    assert {0, 1, 2} <= begun
    assert len(begun) < 20
    assert shards.shown[-1] == (len(begun) - 1, 20), "each that was begun ended, and all but one are counted"


def test_a_shard_whose_retries_are_used_up_does_not_stop_the_others(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do several, while others come through between them; the failure is raised in the end."""
    failures = {shard: TransientError(f"no answer for shard {shard}") for shard in (1, 2, 4, 5, 7)}
    shards = Shards(failures, monkeypatch)
    with pytest.raises(TransientError, match="shard 1"):
        shards.make(config, missing=8, n_shards=8, in_flight=1)
    assert shards.begun == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7]
    assert shards.shown[-1] == (3, 8)


def test_a_store_that_is_down_ends_the_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards({shard: TransientError("can't be reached") for shard in range(1, 40)}, monkeypatch)
    with pytest.raises(TransientError):
        shards.make(config, missing=40, n_shards=40, in_flight=1)
    assert shards.begun == [0, 1, 1, 2, 2, 3, 3]


def test_what_no_retry_can_mend_is_raised_before_what_may_pass(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards({0: TransientError("no answer"), 2: StoreError("access denied")}, monkeypatch)
    with pytest.raises(StoreError):
        shards.make(config, missing=6, n_shards=6, in_flight=1)
    assert set(shards.begun) == {0, 1, 2}


def test_shards_that_all_come_through_are_counted(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards({}, monkeypatch)
    assert shards.make(config, missing=4, n_shards=6, in_flight=2) == 4
    assert shards.shown == [(3, 6), (4, 6), (5, 6), (6, 6)]
