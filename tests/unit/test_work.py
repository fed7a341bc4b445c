"""Workers of a run in a store: who makes what, what they do about each other, and when a shard is given up."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from medsynth_core.errors import InputError, StateError, StoreError, TransientError
from medsynth_core.manifest import table_of
from medsynth_core.storage.attempts import begin, end, open_attempts
from medsynth_core.storage.completion import CompletionRecord, Counts, finished_shards, write_record
from medsynth_core.storage.content import put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis import work
from medsynth_core.synthesis.identity import ShardPlan
from medsynth_core.synthesis.work import SET_ASIDE, Work

RUN = "spec-plan"
Make = Callable[[ShardPlan, int], CompletionRecord]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def plan() -> ShardPlan:
    return ShardPlan("spec", RUN, ("a", "b", "c", "d", "e"), ((0, 4),) * 5, 2)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_LOOK_S", 0.02)
    monkeypatch.setattr(work, "_PAUSES_S", (0.01, 0.01, 0.01))


def maker(store: LocalStore, made: list[int]) -> Make:
    def make(plan: ShardPlan, shard: int) -> CompletionRecord:
        made.append(shard)
        empty = put_content(store, "manifest/x.parquet", parquet_bytes(table_of([])))
        return write_record(
            store,
            CompletionRecord(
                run_id=plan.run_id, shard=shard, n_shards=plan.n_shards, tar=None, manifest=empty, rejected=None,
                counts=Counts(requested=2, accepted=2),
            ),
        )  # fmt: skip

    return make


def lost(store: LocalStore, shard: int, host: str = "elsewhere") -> None:
    begin(store, RUN, shard, {"host": host, "process": 1, "started": 0.0})


def test_a_part_is_made_first_and_then_the_rest(store: LocalStore, plan: ShardPlan) -> None:
    made: list[int] = []
    report = Work(maker(store, made), plan, store, part=(1, 3), in_flight=1).run()
    assert made[:3] == [1, 4, 7]
    assert sorted(made) == list(range(10))
    assert (report.made, report.missing, report.failed, report.aside, report.stopped) == (10, 0, {}, (), False)


def test_parts_are_disjoint_while_others_do_theirs(store: LocalStore, plan: ShardPlan) -> None:
    made: list[list[int]] = [[], [], []]
    jobs = [Work(maker(store, each), plan, store, part=(i, 3), in_flight=1) for i, each in enumerate(made)]
    threads = [threading.Thread(target=job.run) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished_shards(store, RUN, plan.n_shards)) == list(range(10))
    assert sum(map(len, made)) <= 12  # those who are ready help, and two may meet


def test_what_stands_is_not_made_again(store: LocalStore, plan: ShardPlan) -> None:
    Work(maker(store, []), plan, store).run()
    again: list[int] = []
    assert Work(maker(store, again), plan, store).run().made == 0
    assert again == []


def test_a_shard_in_work_elsewhere_is_left_alone_for_a_while(store: LocalStore, plan: ShardPlan) -> None:
    lost(store, 3)
    made: list[int] = []
    job = Work(maker(store, made), plan, store, lost_after_s=60.0)
    job._longest_s = 0.2
    began = time.monotonic()
    job.run()
    assert made[-1] == 3
    assert time.monotonic() - began > 0.3


def test_what_a_dead_process_of_this_machine_began_is_begun_again_at_once(store: LocalStore, plan: ShardPlan) -> None:
    begin(store, RUN, 3, {"host": socket.gethostname(), "process": os.getpid(), "started": 1.0})
    made: list[int] = []
    Work(maker(store, made), plan, store, lost_after_s=3600.0).run()
    assert 3 in made


def test_what_a_living_process_of_this_machine_began_is_not(store: LocalStore, plan: ShardPlan) -> None:
    me = {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}
    begin(store, RUN, 3, me)
    made: list[int] = []
    job = Work(maker(store, made), plan, store, lost_after_s=3600.0)
    job._longest_s = 3600.0
    threading.Timer(1.0, job.stop).start()
    report = job.run()
    assert 3 not in made
    assert (report.made, report.missing, report.stopped) == (9, 1, True)


def test_a_shard_that_three_did_not_survive_is_set_aside(store: LocalStore, plan: ShardPlan) -> None:
    for _ in range(3):
        lost(store, 3, socket.gethostname())
    made: list[int] = []
    report = Work(maker(store, made), plan, store).run()
    assert 3 not in made
    assert (report.made, report.aside, report.missing) == (9, (3,), 0)
    assert finished_shards(store, RUN, 10)[3].counts == Counts(requested=2, accepted=0, failed={SET_ASIDE: 2})


def test_three_who_stopped_in_an_orderly_way_are_no_reason(store: LocalStore, plan: ShardPlan) -> None:
    for _ in range(4):
        end(store, begin(store, RUN, 3, {}), "stopped")
    made: list[int] = []
    assert Work(maker(store, made), plan, store).run().aside == ()
    assert 3 in made


def test_a_failure_that_may_pass_is_tried_again(store: LocalStore, plan: ShardPlan) -> None:
    made: list[int] = []
    make, failures = maker(store, made), iter([True, True, False] * 20)

    def flaky(plan: ShardPlan, shard: int) -> CompletionRecord:
        if next(failures):
            raise TransientError("503")
        return make(plan, shard)

    assert Work(flaky, plan, store, in_flight=1).run().missing == 0
    assert open_attempts(store, RUN).keys() == set(range(10))
    assert all(len(attempts) == 1 for attempts in open_attempts(store, RUN).values())


@pytest.mark.parametrize("kind", [InputError, StateError])
def test_a_shard_that_cannot_be_made_stops_no_other(store: LocalStore, plan: ShardPlan, kind: type[Exception]) -> None:
    make = maker(store, [])

    def broken(plan: ShardPlan, shard: int) -> CompletionRecord:
        if shard == 4:
            raise kind("too large")
        return make(plan, shard)

    report = Work(broken, plan, store).run()
    assert (report.made, report.failed, report.missing) == (9, {4: "too large"}, 1)
    assert 4 not in open_attempts(store, RUN)


def test_a_store_that_refuses_ends_it(store: LocalStore, plan: ShardPlan) -> None:
    def refused(plan: ShardPlan, shard: int) -> CompletionRecord:
        raise StoreError("no permission")

    with pytest.raises(StoreError):
        Work(refused, plan, store).run()


def test_a_shard_that_took_its_worker_down_by_a_fault_of_ours_is_set_aside(store: LocalStore, plan: ShardPlan) -> None:
    make = maker(store, [])

    def faulty(plan: ShardPlan, shard: int) -> CompletionRecord:
        if shard == 3:
            raise RuntimeError("CUDA error")
        return make(plan, shard)

    for number in range(1, 4):
        with pytest.raises(RuntimeError):
            Work(faulty, plan, store, part=(0, 1), lost_after_s=0.05).run()
        assert len(open_attempts(store, RUN)[3]) == number
    report = Work(faulty, plan, store, part=(0, 1), lost_after_s=0.05).run()
    assert (report.aside, report.missing) == ((3,), 0)


def test_of_two_who_meet_at_a_shard_the_second_goes_on(store: LocalStore, plan: ShardPlan) -> None:
    made: list[int] = []
    job = Work(maker(store, made), plan, store, in_flight=1)
    job._longest_s = 3600.0
    lost(store, 3)
    job._attempt(work._Pick(3))
    assert made == []
    assert [attempt.number for attempt in open_attempts(store, RUN)[3]] == [1]
    job._attempt(work._Pick(3, again=True))
    assert made == [3]


def test_stop_lets_the_shard_in_hand_be_finished(store: LocalStore, plan: ShardPlan) -> None:
    made: list[int] = []
    make = maker(store, made)

    def stopped(plan: ShardPlan, shard: int) -> CompletionRecord:
        job.stop()
        time.sleep(0.05)
        return make(plan, shard)

    job = Work(stopped, plan, store, in_flight=1)
    report = job.run()
    assert (report.made, report.missing, report.stopped) == (1, 9, True)


def test_what_is_dropped_took_nobody_down(store: LocalStore, plan: ShardPlan) -> None:
    make = maker(store, [])

    def dropped(plan: ShardPlan, shard: int) -> CompletionRecord:
        job.drop()
        assert open_attempts(store, RUN) == {}
        job.stop()
        return make(plan, shard)

    job = Work(dropped, plan, store, in_flight=1)
    job.run()


def test_a_mark_whose_answer_was_lost_is_ours(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store.put

    def lossy(key: str, data: bytes, *, if_absent: bool = False) -> bool:
        put(key, data, if_absent=if_absent)
        return False

    monkeypatch.setattr(store, "put", lossy)
    assert begin(store, RUN, 3, {}).number == 1
    assert begin(store, RUN, 3, {}).number == 2
