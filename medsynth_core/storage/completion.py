"""Completion records: a shard is done when, and only when, its record exists (contract C5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medsynth_core.errors import CorruptObjectError, SpecMismatchError
from medsynth_core.storage.content import ObjectRef
from medsynth_core.storage.store import ObjectStore

RECORD_VERSION = 1


class Counts(BaseModel):
    """requested = accepted + rejected + failed (contract C6), by reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    requested: int
    accepted: int
    rejected: dict[str, int] = {}
    failed: dict[str, int] = {}

    @model_validator(mode="after")
    def _adds_up(self) -> Counts:
        total = self.accepted + sum(self.rejected.values()) + sum(self.failed.values())
        if total != self.requested:
            raise ValueError(f"requested {self.requested} != accepted + rejected + failed {total}")
        return self

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            requested=self.requested + other.requested,
            accepted=self.accepted + other.accepted,
            rejected=_sum(self.rejected, other.rejected),
            failed=_sum(self.failed, other.failed),
        )


class CompletionRecord(BaseModel):
    """What one shard holds.

    Attributes:
        run_id: the run whose plan the shard is of.
        tar: None when no image was accepted.
        manifest: Parquet part of accepted images.
        rejected: Parquet part of rejected images; None where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = RECORD_VERSION
    run_id: str
    shard: int
    n_shards: int
    tar: ObjectRef | None
    manifest: ObjectRef
    rejected: ObjectRef | None
    counts: Counts

    @model_validator(mode="after")
    def _lists_what_it_counts(self) -> CompletionRecord:
        if self.rejected is None and any(self.counts.rejected.values()):
            raise ValueError("rejected images are counted and not listed")
        return self


def record_key(run_id: str, shard: int) -> str:
    """Returns where a shard's record stands."""
    return f"runs/{run_id}/shards/{shard:05d}.json"


def write_record(store: ObjectStore, record: CompletionRecord) -> CompletionRecord:
    """Writes a record last, if none stands there, and returns the one that does: two workers leave one result."""
    data = json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1).encode()
    if store.put(record_key(record.run_id, record.shard), data, if_absent=True):
        return record
    return read_record(store, record.run_id, record.shard, record.n_shards)


def read_record(store: ObjectStore, run_id: str, shard: int, n_shards: int) -> CompletionRecord:
    """Returns one record.

    Raises:
        SpecMismatchError: it belongs to another run or plan.
        CorruptObjectError: it can't be read or its counts don't add up.
    """
    return _checked(store, store.get(record_key(run_id, shard)), run_id, shard, n_shards)


def _checked(store: ObjectStore, data: bytes, run_id: str, shard: int, n_shards: int) -> CompletionRecord:
    key = record_key(run_id, shard)
    try:
        record = CompletionRecord.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(f"{store.url}: {key}: {error.errors()[0]['msg']}; delete it to redo it") from error
    if (record.run_id, record.shard, record.n_shards) != (run_id, shard, n_shards):
        raise SpecMismatchError(
            f"{store.url}: {key}: is of run {record.run_id}, shard {record.shard} of {record.n_shards}; expected "
            f"{run_id}, shard {shard} of {n_shards}; delete it to redo the shard"
        )
    return record


def standing_shards(store: ObjectStore, run_id: str) -> dict[int, datetime]:
    """Returns the shards that have a record, and when it was written, by listing alone."""
    listed = ((s.key.rsplit("/", 1)[-1].removesuffix(".json"), s) for s in store.list(f"runs/{run_id}/shards/"))
    return {int(name): stored.modified for name, stored in listed if name.isdigit()}


def finished_shards(
    store: ObjectStore, run_id: str, n_shards: int, known: Mapping[int, CompletionRecord] | None = None
) -> dict[int, CompletionRecord]:
    """Returns the records that exist, by shard.

    Args:
        known: records of this run that were read before; they never change, so only others are read.

    Raises:
        SpecMismatchError, CorruptObjectError: as ``read_record``.
    """
    standing = standing_shards(store, run_id)
    found = {shard: record for shard, record in (known or {}).items() if shard in standing}
    new = sorted(standing.keys() - found.keys())
    found.update(zip(new, read_records(store, run_id, new, n_shards), strict=True))
    return dict(sorted(found.items()))


def read_records(store: ObjectStore, run_id: str, shards: Sequence[int], n_shards: int) -> Iterator[CompletionRecord]:
    """Yields the records of shards that have one, in their order.

    Raises:
        SpecMismatchError, CorruptObjectError: as ``read_record``.
    """
    read = store.get_many([record_key(run_id, shard) for shard in shards])
    for shard, data in zip(shards, read, strict=True):
        yield _checked(store, data, run_id, shard, n_shards)


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}
