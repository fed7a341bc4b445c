"""The stage ``deduplicate``: near-duplicates across shards and of the parent's images go.

A shard that loses images is packed anew, every other object stays as it is.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import pyarrow as pa

from medsynth_core.config import Paths
from medsynth_core.deduplicate.release_copies import Comparison, find_release_copies
from medsynth_core.deduplicate.settings import DeduplicateParams
from medsynth_core.filters.fingerprints import Copy
from medsynth_core.manifest import SCHEMA, read_rows
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import get_content, put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.store import ObjectStore


@dataclass(frozen=True)
class DeduplicateReport:
    """Totals after the pass; ``across_shards`` images were copies of one in an earlier shard."""

    counts: Counts
    across_shards: int
    repacked_shards: int


def run(params: DeduplicateParams, paths: Paths, store: ObjectStore, progress: Progress) -> DeduplicateReport:
    """Rejects near-duplicates across shards and writes ``paths["deduplicate"]``.

    Raises:
        InputError: there is no synthesis.
        CorruptObjectError: a shard's bytes don't match its record.
    """
    made = ShardList.load(paths["synthesis"], "synthesis")
    progress(0, len(made.shards), "fingerprints")
    comparison = Comparison(made.quality["enabled"], made.bounds, made.judge_sha256)
    copies = find_release_copies(made.shards, store, made.parent, comparison)
    records = []
    for done, record in enumerate(made.shards, 1):
        members = read_rows(get_content(store, record.manifest), ["image_id"])["image_id"].to_pylist() if copies else ()
        dropped = {identity: copies[identity] for identity in members if identity in copies}
        records.append(_repack(record, dropped, store) if dropped else record)
        progress(done, len(made.shards))
    counts = reduce(add, (record.counts for record in records), Counts(requested=0, accepted=0))
    repacked = sum(new is not old for new, old in zip(records, made.shards, strict=True))
    with replace_directory(paths["deduplicate"]) as folder:
        made.model_copy(update={"shards": tuple(records), "counts": counts}).save(folder)
    return DeduplicateReport(counts, len(copies), repacked)


def _repack(record: CompletionRecord, dropped: Mapping[str, Copy], store: ObjectStore) -> CompletionRecord:
    """Returns the record of a shard without some of its images, the new objects uploaded.

    Args:
        dropped: by image id.
    """
    assert record.tar is not None
    writer = ShardWriter()
    with tarfile.open(fileobj=io.BytesIO(get_content(store, record.tar))) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for name, data in files.items():
        identity, _, suffix = name.rpartition(".")
        if suffix == "png" and identity not in dropped:
            writer.add_raw(identity, data, files[f"{identity}.json"])
    tar_bytes, places = writer.finish()
    rows = read_rows(get_content(store, record.manifest)).to_pylist()
    kept = [row | {"offset": places[row["image_id"]][0]} for row in rows if row["image_id"] not in dropped]
    lost = [
        row
        | {"shard": None, "offset": None, "verdict": "rejected", "reasons": [dropped[row["image_id"]].reason]}
        | dropped[row["image_id"]].scores
        for row in rows
        if row["image_id"] in dropped
    ]
    before = read_rows(get_content(store, record.rejected)).to_pylist() if record.rejected is not None else []
    rejected = sorted(before + lost, key=lambda row: row["image_id"])
    path = record.manifest.relpath
    reasons = Counter(record.counts.rejected) + Counter(copy.reason for copy in dropped.values())
    return record.model_copy(
        update={
            "tar": put_content(store, record.tar.relpath, tar_bytes) if kept else None,
            "manifest": put_content(store, path, _part(kept)),
            "rejected": put_content(store, path.replace("manifest/", "rejected/", 1), _part(rejected)),
            "counts": Counts(
                requested=record.counts.requested,
                accepted=len(kept),
                rejected=dict(sorted(reasons.items())),
                failed=record.counts.failed,
            ),
        }
    )


def _part(rows: list[dict[str, object]]) -> bytes:
    return parquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA))
