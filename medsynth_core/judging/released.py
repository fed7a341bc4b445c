"""The images that a release will hold, a bounded number of them, read from the store before it exists."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medsynth_core.errors import CorruptObjectError
from medsynth_core.filters.thumbnails import Images
from medsynth_core.manifest import SCHEMA, columns_of, read_rows
from medsynth_core.progress import Progress
from medsynth_core.storage.content import content_key, get_content
from medsynth_core.storage.index import read_entry, read_files
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

_COLUMNS = ("image_id", "shard", "offset", "size", "sha256", "prompt_id", "pathology", "view", "keypatch_ids")
_AT_ONCE = 8


@dataclass(frozen=True)
class Released:
    """Some accepted images, the parent's among them.

    Attributes:
        rows: image_id, prompt_id, pathology, view, keypatch_ids and place of each.
    """

    rows: list[dict[str, Any]]
    _store: ObjectStore
    _objects: dict[str, str]

    @classmethod
    def choose(cls, judged: ShardList, store: ObjectStore, most: int) -> Released:
        """Returns the images with the smallest ids, which are as good as drawn at random, ``most`` at most.

        Raises:
            InputError: there is no such parent.
            CorruptObjectError: a manifest part is damaged.
        """
        objects = {record.tar.relpath: record.tar.md5 for record in judged.shards if record.tar is not None}
        if judged.parent is not None:
            objects |= read_files(store, read_entry(store, judged.parent).dir_md5, judged.parent)
        chosen = SCHEMA.empty_table().select(_COLUMNS)
        for part in _parts(judged, store):
            chosen = pa.concat_tables([chosen, part]).sort_by("image_id").slice(0, most)
        return cls(chosen.to_pylist(), store, objects)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int) -> Iterator[Images]:
        """Yields the images in order, uint8 [n, H, W], ``size`` at a time.

        Raises:
            CorruptObjectError: bytes don't match the manifest.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="read") as pool:
            for start in range(0, len(self.rows), size):
                yield np.stack(list(pool.map(self._read, self.rows[start : start + size])))

    def read(self, size: int, progress: Progress) -> Images:
        """Returns all images in order, uint8 [N, H, W], N > 0, read ``size`` at a time.

        Raises:
            CorruptObjectError: bytes don't match the manifest.
        """
        parts: list[Images] = []
        for batch in self.batches(size):
            parts.append(batch)
            progress(sum(map(len, parts)), len(self), "images")
        return np.concatenate(parts)

    def _read(self, row: dict[str, Any]) -> Images:
        data = self._store.get_range(content_key(self._objects[row["shard"]]), row["offset"], row["size"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise CorruptObjectError(
                f"{self._store.url}: {row['shard']}: bytes of image {row['image_id']} don't match its manifest row; "
                f"delete the completion record of its shard and run again"
            )
        return np.array(Image.open(io.BytesIO(data)))


def _parts(judged: ShardList, store: ObjectStore) -> Iterator[pa.Table]:
    if judged.parent is not None:
        yield from parent_rows(store, judged.parent, columns_of(_COLUMNS))
    for record in judged.shards:
        yield read_rows(get_content(store, record.manifest), _COLUMNS)
