"""Sequential access: a release as an iterable torch Dataset, shuffled, split and resumable.

The manifest says where every image lies, so the order of an epoch is known before a byte is read: it is split over
ranks and workers to the image, a shuffle buffer works on numbers instead of images, and a position is one count.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from medsynth_core.errors import InputError
from medsynth_core.random import stream
from medsynth_core.release.filters import Condition
from medsynth_core.release.items import PLACE, SHOWN, ItemMaker, Transform
from medsynth_core.release.reader import Release

_MAX_RANGE = 4 * 2**20
_MAX_GAP = 64 * 2**10
"""Unwanted bytes between two images that are read over rather than skipped."""
_AHEAD = 2
"""Ranges that are fetched before they are needed."""

Places = npt.NDArray[np.int64]


class ReleaseStream(IterableDataset[dict[str, Any]]):
    """Accepted images in sequence; each comes once an epoch over all ranks and DataLoader workers together.

    Shards come in random order and images through a shuffle buffer when ``shuffle`` > 0. Call ``set_epoch`` before
    each epoch for another order, as with DistributedSampler. Ranks differ by one image at most; ``len`` is this rank's.
    ``state_dict`` and ``load_state_dict`` keep a position: torchdata's StatefulDataLoader uses them in its workers.

    Args:
        filters: conditions on manifest columns; shards without a match are never read.
        classes: pathologies of an item's target, by default all of the release.
        shuffle: images that the buffer holds, as PNG bytes; 0 keeps the manifest's order.
        rank: of this process; by default torch.distributed's, else RANK, else one process.
        world_size: processes; by default torch.distributed's, else WORLD_SIZE, else one.
    """

    def __init__(
        self,
        release: Release,
        transform: Transform | None = None,
        filters: Sequence[Condition] = (),
        classes: Sequence[str] | None = None,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._release = release
        self._items = ItemMaker(release, transform, classes)
        self._table = release.manifest([*PLACE, *SHOWN], filters)
        shards = self._table["shard"].combine_chunks().dictionary_encode()
        self._shards, self._shard_of_row = shards.dictionary.to_pylist(), shards.indices.to_numpy()
        self._offsets = self._table["offset"].to_numpy()
        self._sizes = self._table["size"].to_numpy()
        self._buffer, self._seed = shuffle, seed
        own_rank, own_world = _process()
        self._rank = own_rank if rank is None else rank
        self._world = own_world if world_size is None else world_size
        if not 0 <= self._rank < self._world:
            raise InputError(f"rank {self._rank} of {self._world} processes; expected 0 to {self._world - 1}")
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # persistent workers see it change
        self._done = 0
        self._resume: dict[str, int] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Pathologies of an item's target, in order."""
        return self._items.classes

    def __len__(self) -> int:
        first, last = _share(len(self._table), self._rank, self._world)
        return last - first

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next epoch."""
        self._epoch[0] = epoch

    def state_dict(self) -> dict[str, int]:
        """Returns the position of this process or worker."""
        return {"epoch": int(self._epoch), "done": self._done, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a position at the next iteration.

        Raises:
            InputError: it is of other images, another seed, or another number of processes or workers.
        """
        self._resume = dict(state)
        self._epoch[0] = state["epoch"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        consumer, consumers = self._consumer()
        epoch = int(self._epoch)
        rows = self._reading_order(epoch)[slice(*_share(len(self._table), consumer, consumers))]
        draw = stream(self._seed, "release.buffer", epoch, consumer)
        order = buffered_order(len(rows), self._buffer, draw)
        self._done = self._take_position()
        held: dict[int, tuple[bytes, dict[str, Any]]] = {}
        ranges = self._fetched(rows, np.sort(order[self._done :]))
        for place in order[self._done :].tolist():
            while place not in held:
                held.update(next(ranges))
            item = self._items.make(*held.pop(place))
            self._done += 1
            yield item
        self._done = 0

    def _consumer(self) -> tuple[int, int]:
        """Returns this worker's number among those of all ranks, and how many there are."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        return self._rank * workers + number, self._world * workers

    def _identity(self) -> dict[str, int]:
        """Returns what a position means nothing without."""
        consumer, consumers = self._consumer()
        return {
            "consumer": consumer,
            "consumers": consumers,
            "images": len(self._table),
            "shuffle": self._buffer,
            "seed": self._seed,
        }

    def _take_position(self) -> int:
        if self._resume is None:
            return 0
        state, self._resume = self._resume, None
        for name, value in self._identity().items():
            if state[name] != value:
                raise InputError(f"the saved position has {name} {state[name]}, this stream {value}; use the same")
        return state["done"]

    def _reading_order(self, epoch: int) -> Places:
        """Returns the rows of all images in the order of reading: shard by shard, each from its start."""
        rank_of_shard = np.arange(len(self._shards))
        if self._buffer:
            rank_of_shard = stream(self._seed, "release.shards", epoch).permutation(len(self._shards))
        order: Places = np.lexsort((self._offsets, rank_of_shard[self._shard_of_row]))
        return order

    def _fetched(self, rows: Places, places: Places) -> Iterator[list[tuple[int, tuple[bytes, dict[str, Any]]]]]:
        """Yields (place, (PNG, manifest row)) of the wanted places of ``rows``, range by range, some ahead."""
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="range") as pool:
            waiting: deque[Future[list[tuple[int, tuple[bytes, dict[str, Any]]]]]] = deque()
            try:
                for chunk in self._ranges(rows, places):
                    waiting.append(pool.submit(self._fetch, rows, chunk))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _ranges(self, rows: Places, places: Places) -> Iterator[Places]:
        """Yields runs of places that lie close together in one shard."""
        if not len(places):
            return
        wanted = rows[places]
        shard, start = self._shard_of_row[wanted], self._offsets[wanted]
        end = start + self._sizes[wanted]
        apart = (shard[1:] != shard[:-1]) | (start[1:] - end[:-1] > _MAX_GAP)
        first = 0
        for place in range(1, len(places) + 1):
            if place == len(places) or apart[place - 1] or end[place] - start[first] > _MAX_RANGE:
                yield places[first:place]
                first = place

    def _fetch(self, rows: Places, places: Places) -> list[tuple[int, tuple[bytes, dict[str, Any]]]]:
        wanted = rows[places]
        start = int(self._offsets[wanted[0]])
        stop = int(self._offsets[wanted[-1]] + self._sizes[wanted[-1]])
        data = self._release.read_range(self._shards[self._shard_of_row[wanted[0]]], start, stop - start)
        about = self._table.take(wanted).to_pylist()
        return [
            (int(place), (data[row["offset"] - start : row["offset"] - start + row["size"]], row))
            for place, row in zip(places, about, strict=True)
        ]


def buffered_order(n: int, buffer: int, draw: np.random.Generator) -> Places:
    """Returns the order in which a shuffle buffer gives out ``n`` images that come in as 0, 1, ...

    The image given out at step t came in before step t + ``buffer``.
    """
    order = np.arange(n, dtype=np.int64)
    if buffer <= 1:
        return order
    size = min(buffer, n)
    chosen = draw.random(n)
    held = list(range(size))
    for step in range(n):
        place = int(chosen[step] * len(held))
        order[step] = held[place]
        if step + size < n:
            held[place] = step + size
        else:
            held[place] = held[-1]
            held.pop()
    return order


def _share(n: int, part: int, parts: int) -> tuple[int, int]:
    return part * n // parts, (part + 1) * n // parts


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
