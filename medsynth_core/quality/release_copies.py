"""Near-duplicates in a whole release: across its shards and against the release that it is added to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medsynth_core.quality.alike import Copy, CopyBounds, Marks, release_copies
from medsynth_core.quality.registration import SIDE
from medsynth_core.storage.completion import CompletionRecord
from medsynth_core.storage.content import get_content
from medsynth_core.storage.manifest import read_parquet
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.store import ObjectStore

_COLUMNS = ("signature", "features", "llm_sha256")


def find_release_copies(
    records: Sequence[CompletionRecord], store: ObjectStore, parent: str | None, llm: str, bounds: CopyBounds | None
) -> dict[str, Copy]:
    """Returns the accepted images that are copies of an earlier kept one by image id.

    All of the parent are kept; of the others the earlier by shard, then image id. What they are compared by is the one
    thing that is held for all images.

    Args:
        llm: digest of the language model whose judge's features can be compared; a parent may have others.
        bounds: None finds none.
    """
    if bounds is None:
        return {}
    collected = _Collected(llm)
    if parent is not None:
        for part in parent_rows(store, parent, _COLUMNS):
            collected.add(part)
    n_parent = collected.n
    ids: list[pa.ChunkedArray] = []
    for record in records:
        part = read_parquet(get_content(store, record.manifest), ["image_id", *_COLUMNS])
        ids.append(part["image_id"])
        collected.add(part)
    copies = release_copies(collected.marks(), bounds, n_parent)
    names = pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())
    return {names[row - n_parent].as_py(): copy for row, copy in copies.items()}


class _Collected:
    """Thumbnails and features of all images so far."""

    def __init__(self, llm: str) -> None:
        self.n = 0
        self._llm = llm
        self._thumbnails, self._features, self._has_features = bytearray(), bytearray(), bytearray()

    def add(self, part: pa.Table) -> None:
        """Adds the rows of a part."""
        comparable = pc.fill_null(
            pc.and_(pc.equal(part["llm_sha256"], self._llm), pc.is_valid(part["features"])), False
        )
        self.n += len(part)
        self._thumbnails += b"".join(part["signature"].to_pylist())
        self._features += b"".join(part["features"].filter(comparable).to_pylist())
        self._has_features += bytes(comparable.to_pylist())

    def marks(self) -> Marks:
        has_features = np.frombuffer(self._has_features, dtype=bool)
        return Marks(
            np.frombuffer(self._thumbnails, dtype=np.uint8).reshape(-1, SIDE**2),
            np.frombuffer(self._features, dtype=np.float16).reshape(has_features.sum(), -1 if self._features else 0),
            has_features,
        )
