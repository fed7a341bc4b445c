"""Near-duplicates in a whole release: across its shards and against the release that it is added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medsynth_core.filters import FILTERS
from medsynth_core.filters.fingerprints import Copy, Fingerprints
from medsynth_core.filters.registration import SIDE
from medsynth_core.manifest import columns_of, read_rows
from medsynth_core.storage.completion import CompletionRecord
from medsynth_core.storage.content import get_content
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.store import ObjectStore

_COLUMNS = ("signature", "features", "judge_sha256")


@dataclass(frozen=True)
class Comparison:
    """How images of a release are compared.

    Attributes:
        filters: names of those that ran.
        bounds: of all of them.
        judge_sha256: whose features can be compared; a parent may have others.
    """

    filters: Sequence[str]
    bounds: Mapping[str, float]
    judge_sha256: str


def find_release_copies(
    records: Sequence[CompletionRecord], store: ObjectStore, parent: str | None, comparison: Comparison
) -> dict[str, Copy]:
    """Returns the accepted images that are copies of an earlier kept one by image id.

    All of the parent are kept; of the others the earlier by shard, then image id. Fingerprints are the one thing that
    is held for all images.
    """
    comparing = [each for each in FILTERS if each.compares and each.name in comparison.filters]
    if not comparing:
        return {}
    collected = _Collected(comparison.judge_sha256)
    if parent is not None:
        for part in parent_rows(store, parent, columns_of(_COLUMNS)):
            collected.add(part)
    n_parent = collected.n
    ids: list[pa.ChunkedArray] = []
    for record in records:
        part = read_rows(get_content(store, record.manifest), ["image_id", *_COLUMNS])
        ids.append(part["image_id"])
        collected.add(part)
    fingerprints = collected.fingerprints()
    copies: dict[int, Copy] = {}
    for each in comparing:
        copies = each.copies(fingerprints, comparison.bounds, n_parent) | copies
    names = pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())
    return {names[row - n_parent].as_py(): copy for row, copy in copies.items()}


class _Collected:
    """Thumbnails and features of all images so far."""

    def __init__(self, judge_sha256: str) -> None:
        self.n = 0
        self._judge_sha256 = judge_sha256
        self._thumbnails, self._features, self._has_features = bytearray(), bytearray(), bytearray()

    def add(self, part: pa.Table) -> None:
        """Adds the rows of a part."""
        comparable = pc.fill_null(
            pc.and_(pc.equal(part["judge_sha256"], self._judge_sha256), pc.is_valid(part["features"])), False
        )
        self.n += len(part)
        self._thumbnails += b"".join(part["signature"].to_pylist())
        self._features += b"".join(part["features"].filter(comparable).to_pylist())
        self._has_features += bytes(comparable.to_pylist())

    def fingerprints(self) -> Fingerprints:
        has_features = np.frombuffer(self._has_features, dtype=bool)
        return Fingerprints(
            np.frombuffer(self._thumbnails, dtype=np.uint8).reshape(-1, SIDE**2),
            np.frombuffer(self._features, dtype=np.float16).reshape(has_features.sum(), -1 if self._features else 0),
            has_features,
        )
