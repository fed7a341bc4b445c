"""Random access: a release as a map-style torch Dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from torch.utils.data import Dataset

from medsynth_core.release.filters import Condition
from medsynth_core.release.items import PLACE, SHOWN, ItemMaker, Transform
from medsynth_core.release.reader import Release

_AT_ONCE = 8


class ReleaseDataset(Dataset[dict[str, Any]]):
    """Accepted images by index, each read by a range request, those of a batch several at a time.

    Safe to send to DataLoader workers. ``items.ItemMaker`` says what an item holds, ``release.collate`` makes batches.
    """

    def __init__(
        self,
        release: Release,
        transform: Transform | None = None,
        filters: Sequence[Condition] = (),
        classes: Sequence[str] | None = None,
    ) -> None:
        self._release = release
        self._items = ItemMaker(release, transform, classes)
        self._table = release.manifest([*PLACE, *SHOWN], filters)

    @property
    def classes(self) -> tuple[str, ...]:
        """Pathologies of an item's target, in order."""
        return self._items.classes

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self._table.slice(index % len(self), 1).to_pylist()[0]
        return self._items.make(self._bytes(row), row)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several items; torch's DataLoader asks for a batch so."""
        rows = self._table.take(list(indices)).to_pylist()
        return [self._items.make(png, row) for png, row in zip(_pool().map(self._bytes, rows), rows, strict=True)]

    def _bytes(self, row: dict[str, Any]) -> bytes:
        return self._release.read_range(row["shard"], row["offset"], row["size"])


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="range")


os.register_at_fork(after_in_child=_pool.cache_clear)
