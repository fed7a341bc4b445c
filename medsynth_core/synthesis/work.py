"""A worker of a run that lives in the store: it makes the missing shards of its part, then helps with what is still
missing elsewhere.

Nobody hands out shards and none is reserved. What is done is what has a completion record; marks of attempts
(``storage.attempts``) say what is in work or took its workers down. A shard that several attempts didn't survive is set
aside: its record says that all its images failed, and why.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    wait_chain,
    wait_fixed,
)

from medsynth_core.errors import ConfigError, InputError, MedsynthError, StateError, TransientError
from medsynth_core.manifest import table_of
from medsynth_core.storage.attempts import Attempt, begin, end, open_attempts
from medsynth_core.storage.completion import CompletionRecord, Counts, record_key, standing_shards, write_record
from medsynth_core.storage.content import put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import ShardPlan

log = logging.getLogger(__name__)


SET_ASIDE = "workers_lost"
"""Why the images of a shard failed that was set aside."""
MOST_ATTEMPTS = 3
_SLOWER, _LOST = 2.0, 5.0
"""Times of what a shard took here at most, after which somebody else's is begun once more, and is given up."""
_LOOKS = 20
"""Of the shards that nobody has begun, one in so many is taken at a look, which costs a second where there are many."""
_LOOK_S = 5.0
"""Between two looks at what others do."""
_PAUSES_S = (2.0, 10.0, 60.0)
"""Before what failed in a way that may pass is done again."""


@dataclass(frozen=True)
class WorkReport:
    """What a worker did, and what of the run has no record.

    Attributes:
        made: shards whose record this worker wrote or found when it had made them.
        aside: shards that it set aside.
        failed: shards that it couldn't make, and why.
        missing: shards without a record when it stopped.
        stopped: whether it was told to.
    """

    made: int
    aside: tuple[int, ...]
    failed: dict[int, str]
    missing: int
    stopped: bool


def model_cache() -> Path:
    """Returns where this user keeps models on this machine: ``MEDSYNTH_CACHE``, else ``medsynth`` where caches are."""
    if named := os.environ.get("MEDSYNTH_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medsynth"


@dataclass(frozen=True)
class _Pick:
    """A shard to be begun; ``again``, although somebody else has begun it."""

    shard: int
    again: bool = False


class Work:
    """One worker's share of a run; ``run`` does it, ``stop`` and ``drop`` end it from a signal handler or elsewhere."""

    def __init__(
        self,
        make: Callable[[ShardPlan, int], CompletionRecord],
        plan: ShardPlan,
        store: ObjectStore,
        *,
        part: tuple[int, int] | None = None,
        in_flight: int = 2,
        lost_after_s: float = 600.0,
    ) -> None:
        """Args:
        make: as ``ShardWorker.make``.
        part: (which, of how many), from 0: whose shards come first; None: those that nobody has begun, in any order.
        in_flight: shards at a time.
        lost_after_s: what an attempt of which nothing is heard has at least before it counts as lost.
        """
        self._make, self._plan, self._store, self._part = make, plan, store, part
        self._in_flight, self._lost_after_s = in_flight, lost_after_s
        self._stop = threading.Event()
        self._patiently = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_chain(*map(wait_fixed, _PAUSES_S)),
            stop=stop_after_attempt(1 + len(_PAUSES_S)),
            sleep=sleep_using_event(self._stop),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        self._begun: dict[int, Attempt] = {}
        self._longest_s = 0.0
        self._since: dict[tuple[int, int], float] = {}
        self._made, self._aside = 0, list[int]()
        self._failed: dict[int, str] = {}

    def stop(self) -> None:
        """Begins no more shards."""
        self._stop.set()

    def drop(self) -> None:
        """Marks the shards in hand as given up: the process will end before they are made."""
        for attempt in list(self._begun.values()):
            with suppress(MedsynthError):
                end(self._store, attempt, "stopped")

    def run(self) -> WorkReport:
        """Makes shards until none is missing or it is stopped.

        Raises:
            StoreError, TransientError: the store fails.
        """
        queue = deque(_Pick(shard) for shard in self._own())
        doing: dict[Future[None], int] = {}
        left = 1
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="shard") as pool:
            while not self._stop.is_set():
                if not queue and len(doing) < self._in_flight:
                    again, left = self._elsewhere(doing.values())
                    queue.extend(again)
                while queue and len(doing) < self._in_flight:
                    pick = queue.popleft()
                    doing[pool.submit(self._attempt, pick)] = pick.shard
                if doing:
                    done, _ = wait(doing, _LOOK_S, FIRST_COMPLETED)
                    for future in done:
                        del doing[future]
                        future.result()
                elif not left:
                    break
                else:
                    self._stop.wait(_LOOK_S)
        for future in doing:
            future.result()
        standing = self._patiently(standing_shards, self._store, self._plan.run_id)
        missing = self._plan.n_shards - len(standing)
        return WorkReport(self._made, tuple(self._aside), dict(self._failed), missing, self._stop.is_set())

    def _own(self) -> list[int]:
        """Returns the shards of this worker's part that nobody has made or begun, in order."""
        if self._part is None:
            return []
        run_id = self._plan.run_id
        standing = self._patiently(standing_shards, self._store, run_id)
        begun = self._patiently(open_attempts, self._store, run_id)
        which, of = self._part
        return [s for s in range(which, self._plan.n_shards, of) if s not in standing and s not in begun]

    def _elsewhere(self, doing: Collection[int]) -> tuple[list[_Pick], int]:
        """Returns a few missing shards that may be begun, and how many are missing and not in hand here."""
        run_id, n = self._plan.run_id, self._plan.n_shards
        standing = self._patiently(standing_shards, self._store, run_id)
        missing = [s for s in range(n) if s not in standing and s not in doing and s not in self._failed]
        if not missing:
            return [], 0
        begun = self._patiently(open_attempts, self._store, run_id)
        room = self._in_flight - len(doing)
        if free := [shard for shard in missing if shard not in begun]:
            some = min(len(free), max(room, len(free) // _LOOKS))
            return [_Pick(shard) for shard in random.sample(free, some)], len(missing)
        slow = []
        for shard in missing:
            attempts = begun[shard]
            waited_s = time.monotonic() - self._since.setdefault((shard, len(attempts)), time.monotonic())
            gone = _is_gone(self._patiently(attempts[-1].by, self._store))
            if len(attempts) >= MOST_ATTEMPTS:
                if gone or waited_s >= max(self._lost_after_s, _LOST * self._longest_s):
                    self._set_aside(shard, len(attempts))
            elif gone or waited_s >= (_SLOWER * self._longest_s or self._lost_after_s):
                slow.append((len(attempts), -waited_s, shard))
        return [_Pick(shard, again=True) for _, _, shard in sorted(slow)[:room]], len(missing)

    def _attempt(self, pick: _Pick) -> None:
        run_id, shard, began = self._plan.run_id, pick.shard, time.monotonic()
        if self._patiently(self._store.size, record_key(run_id, shard)) is not None:
            return
        attempt = self._patiently(begin, self._store, run_id, shard, _me())
        if attempt.number > 1 and not pick.again and self._is_begun_elsewhere(shard):
            self._patiently(end, self._store, attempt, "begun elsewhere")
            return
        self._begun[shard] = attempt
        try:
            self._patiently(self._make, self._plan, shard)
            self._made += 1
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        except (InputError, StateError, ConfigError) as error:
            log.error("shard %d can't be made: %s", shard, error)
            self._failed[shard] = str(error)
            self._patiently(end, self._store, attempt, str(error))
        except MedsynthError as error:  # the store's fault; of any other, which takes the worker down, the mark stays
            with suppress(MedsynthError):
                end(self._store, attempt, str(error))
            raise
        finally:
            self._begun.pop(shard)

    def _is_begun_elsewhere(self, shard: int) -> bool:
        """Returns whether there is an open attempt at a shard beside the one here."""
        return len(self._patiently(open_attempts, self._store, self._plan.run_id, shard)[shard]) > 1

    def _set_aside(self, shard: int, attempts: int) -> None:
        """Writes the record of a shard that is given up: all of its images failed."""
        requested = len(self._plan.requests(shard))
        empty = put_content(self._store, f"manifest/{self._plan.name(shard)}.parquet", parquet_bytes(table_of([])))
        record = CompletionRecord(
            run_id=self._plan.run_id,
            shard=shard,
            n_shards=self._plan.n_shards,
            tar=None,
            manifest=empty,
            rejected=None,
            counts=Counts(requested=requested, accepted=0, failed={SET_ASIDE: requested}),
        )
        if write_record(self._store, record) == record:
            self._aside.append(shard)
            log.error("shard %d is set aside: %d attempts took their workers down with them", shard, attempts)


def _me() -> dict[str, object]:
    return {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}


def _is_gone(by: Mapping[str, object]) -> bool:
    """Returns whether who began an attempt was a process of this machine that runs no more."""
    if by.get("host") != socket.gethostname():
        return False
    try:
        return psutil.Process(int(str(by["process"]))).create_time() != by.get("started")
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return True
