"""Marks of attempts at a shard: each is written before the work begins, and another when it ends in an orderly way.

    runs/<run_id>/attempts/<shard>/<n>.json          who began attempt n
    runs/<run_id>/attempts/<shard>/<n>.ended.json    how it ended, unless by a record

A mark is no lease: whoever likes may work on any shard, and the completion record decides. It tells a shard that is in
work or was given up from one that took its workers down with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from medsynth_core.storage.store import ObjectStore

_MARK = re.compile(r"/attempts/(\d+)/(\d+)(\.ended)?\.json$")


@dataclass(frozen=True)
class Attempt:
    """An attempt that was begun."""

    run_id: str
    shard: int
    number: int

    def by(self, store: ObjectStore) -> dict[str, object]:
        """Returns who began it."""
        found: dict[str, object] = json.loads(store.get(_key(self.run_id, self.shard, self.number)))
        return found


def begin(store: ObjectStore, run_id: str, shard: int, by: Mapping[str, object]) -> Attempt:
    """Writes the mark of the next attempt at a shard and returns it.

    Args:
        by: who begins it, as JSON has it.
    """
    text = json.dumps({**by, "mark": uuid4().hex}, sort_keys=True).encode()
    for number in count(1):
        key = _key(run_id, shard, number)
        # An answer may be lost on its way: then what stands there is ours.
        if store.put(key, text, if_absent=True) or store.get(key) == text:
            return Attempt(run_id, shard, number)
    raise AssertionError


def end(store: ObjectStore, attempt: Attempt, how: str) -> None:
    """Writes that an attempt ended without a record, and why: it took nobody down."""
    key = _key(attempt.run_id, attempt.shard, attempt.number, ".ended")
    store.put(key, json.dumps({"how": how}).encode())


def open_attempts(store: ObjectStore, run_id: str, shard: int | None = None) -> dict[int, list[Attempt]]:
    """Returns the attempts at each shard, or at one, that were begun and not ended, the last one last; of a shard that
    has a record too."""
    below = "" if shard is None else f"{shard:05d}/"
    marks = (_MARK.search(stored.key) for stored in store.list(f"runs/{run_id}/attempts/{below}"))
    begun: dict[int, dict[int, Attempt]] = {}
    ended = set()
    for mark in filter(None, marks):
        shard, number = int(mark[1]), int(mark[2])
        if mark[3]:
            ended.add((shard, number))
        else:
            begun.setdefault(shard, {})[number] = Attempt(run_id, shard, number)
    left = {shard: [of[number] for number in sorted(of) if (shard, number) not in ended] for shard, of in begun.items()}
    return {shard: attempts for shard, attempts in left.items() if attempts}


def _key(run_id: str, shard: int, number: int, ended: str = "") -> str:
    return f"runs/{run_id}/attempts/{shard:05d}/{number}{ended}.json"
