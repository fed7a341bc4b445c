"""Near-duplicates in a whole release: across its shards and against the release that it is added to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from medsynth_core.quality.duplicate import find_copies
from medsynth_core.quality.registration import SIDE
from medsynth_core.storage.completion import CompletionRecord
from medsynth_core.storage.content import get_content
from medsynth_core.storage.manifest import read_parquet
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.store import ObjectStore


def find_release_copies(
    records: Sequence[CompletionRecord], store: ObjectStore, parent: str | None, bound: float | None
) -> dict[str, float]:
    """Returns the accepted images that are copies of an earlier kept one, with the distance to it, by image id.

    All of the parent are kept; of the others the earlier by shard, then image id. Signatures are the one thing that
    is held for all images.

    Args:
        bound: distance at which an image is a copy; None finds none.
    """
    if bound is None:
        return {}
    marks = bytearray()
    if parent is not None:
        for part in parent_rows(store, parent, ["signature"]):
            marks += b"".join(part["signature"].to_pylist())
    n_parent = len(marks) // SIDE**2
    ids: list[pa.ChunkedArray] = []
    for record in records:
        part = read_parquet(get_content(store, record.manifest), ["image_id", "signature"])
        ids.append(part["image_id"])
        marks += b"".join(part["signature"].to_pylist())
    copies = find_copies(np.frombuffer(marks, dtype=np.uint8).reshape(-1, SIDE**2), bound, n_parent)
    names = pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())
    return {names[place - n_parent].as_py(): distance for place, distance in copies.items()}
