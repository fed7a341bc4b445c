"""How far a run in the store is, from its records alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import add

from medsynth_core.storage.attempts import open_attempts
from medsynth_core.storage.completion import Counts, finished_shards
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.published import read_published
from medsynth_core.synthesis.rounds import read_plan
from medsynth_core.synthesis.work import SET_ASIDE

_LATELY = timedelta(minutes=10)


@dataclass(frozen=True)
class RunStatus:
    """What of a run stands in the store.

    Attributes:
        shards, made, set_aside, in_work, missing: shards; in work is what was begun and neither made nor given up, and
            is among those that are missing.
        requested, accepted: images of the shards that are made.
        rejected, failed: those by reason.
        images_per_s: over the ten minutes before the newest record; None where there is one record or none.
        left_s: at that pace; None where it isn't known.
        spent_usd: for prompts.
    """

    run_id: str
    shards: int
    made: int
    set_aside: int
    in_work: int
    missing: int
    requested: int
    accepted: int
    rejected: dict[str, int]
    failed: dict[str, int]
    images_per_s: float | None
    left_s: float | None
    spent_usd: float


def status_of(store: ObjectStore, run_id: str) -> RunStatus:
    """Returns how far a run is.

    Raises:
        InputError, ForeignRunError: there is no such run, or it is of another version.
        StateError, StoreError, TransientError: a record can't be read, or the store fails.
    """
    run, plan = read_published(store, run_id), read_plan(store, run_id)
    written = {_shard_of(stored.key): stored.modified for stored in store.list(f"runs/{run_id}/shards/")}
    records = finished_shards(store, run_id, plan.n_shards)
    begun = open_attempts(store, run_id)
    counts = reduce(add, (record.counts for record in records.values()), Counts(requested=0, accepted=0))
    aside = sum(SET_ASIDE in record.counts.failed for record in records.values())
    sizes = {shard: record.counts.requested for shard, record in records.items()}
    pace = _pace({shard: written[shard] for shard in records if shard in written}, sizes)
    return RunStatus(
        run_id,
        plan.n_shards,
        len(records) - aside,
        aside,
        len([shard for shard in begun if shard not in records]),
        plan.n_shards - len(records),
        counts.requested,
        counts.accepted,
        counts.rejected,
        counts.failed,
        pace,
        (plan.n_images - counts.requested) / pace if pace else None,
        run.spent_usd,
    )


def _shard_of(key: str) -> int:
    name = key.rsplit("/", 1)[-1].removesuffix(".json")
    return int(name) if name.isdigit() else -1


def _pace(written: dict[int, datetime], images: dict[int, int]) -> float | None:
    """Returns images a second by the store's clock; the first record of the span began it."""
    if len(written) < 2:
        return None
    newest = max(written.values())
    lately = {shard: at for shard, at in written.items() if at > newest - _LATELY}
    if len(lately) < 2:
        lately = dict(sorted(written.items(), key=lambda each: each[1])[-2:])
    first = min(lately, key=lambda shard: lately[shard])
    seconds = (newest - lately[first]).total_seconds()
    made = Counter(images)
    return sum(made[shard] for shard in lately if shard != first) / seconds if seconds > 0 else None
