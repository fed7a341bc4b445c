"""How far a run in the store is, from its records alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import add

from medsynth_core.storage.attempts import open_attempts
from medsynth_core.storage.completion import Counts, read_records, standing_shards
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
    written = standing_shards(store, run_id)
    of = {record.shard: record.counts for record in read_records(store, run_id, sorted(written), plan.n_shards)}
    begun = open_attempts(store, run_id)
    counts = reduce(add, of.values(), Counts(requested=0, accepted=0))
    aside = sum(SET_ASIDE in each.failed for each in of.values())
    pace = _pace(written, of)
    return RunStatus(
        run_id=run_id,
        shards=plan.n_shards,
        made=len(of) - aside,
        set_aside=aside,
        in_work=len(begun.keys() - of.keys()),
        missing=plan.n_shards - len(of),
        requested=counts.requested,
        accepted=counts.accepted,
        rejected=counts.rejected,
        failed=counts.failed,
        images_per_s=pace,
        left_s=(plan.n_images - counts.requested) / pace if pace else None,
        spent_usd=run.spent_usd,
    )


def _pace(written: Mapping[int, datetime], counts: Mapping[int, Counts]) -> float | None:
    """Returns images a second by the store's clock; the first record of the span began it."""
    if len(written) < 2:
        return None
    in_order = sorted(written, key=lambda shard: written[shard])
    newest = written[in_order[-1]]
    lately = [shard for shard in in_order if written[shard] > newest - _LATELY]
    first, *others = lately if len(lately) > 1 else in_order[-2:]
    seconds = (newest - written[first]).total_seconds()
    return sum(counts[shard].requested for shard in others) / seconds if seconds > 0 else None
