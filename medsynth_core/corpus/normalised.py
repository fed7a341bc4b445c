"""The normalised corpus on disk: Parquet tables of studies and views, images as memory-mapped chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medsynth_core.corpus.records import UNMASKED
from medsynth_core.errors import InputError

IMAGES_PER_CHUNK = 1024
MASK_SIDE = 64
"""Side of a mask in cells, whatever the images' is: organs are large."""
STUDIES_SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("findings", pa.string()),
        ("impression", pa.string()),
        ("n_views", pa.int32()),
    ]
)
VIEWS_SCHEMA = pa.schema(
    [
        ("view_id", pa.string()),
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("view", pa.string()),
        ("row", pa.int32()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """A normalised corpus; ``image_size`` is the side of its square images in pixels."""

    folder: Path
    image_size: int

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Returns the corpus that the corpus stage wrote.

        Raises:
            InputError: there is none.
        """
        try:
            about = json.loads((folder / "corpus.json").read_text("utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{folder}: no corpus there; run `medsynth corpus` first") from error
        return cls(folder, about["image_size"])

    def n_studies(self) -> int:
        """Returns the number of studies."""
        return int(pq.read_metadata(self.folder / "studies.parquet").num_rows)

    def study_batches(self, rows: int) -> Iterator[list[dict[str, Any]]]:
        """Yields the studies of all splits in order, ``rows`` at a time, with the columns of ``STUDIES_SCHEMA``."""
        yield from row_batches(self.folder / "studies.parquet", rows)

    def studies(self, split: str | None = None) -> pa.Table:
        """Returns the studies of a split (all when None), columns of ``STUDIES_SCHEMA``."""
        return _of_split(pq.read_table(self.folder / "studies.parquet"), split)

    def views(self, split: str | None = None) -> pa.Table:
        """Returns the views of a split (all when None), columns of ``VIEWS_SCHEMA``."""
        return _of_split(pq.read_table(self.folder / "views.parquet"), split)

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Returns the images of the given rows, uint8 [n, H, W]."""
        out = np.empty((len(rows), self.image_size, self.image_size), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            out[place] = self._chunks[row // IMAGES_PER_CHUNK][row % IMAGES_PER_CHUNK]
        return out

    def masks(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Returns the masks of the given rows, numbers of ``records.ORGANS`` or ``UNMASKED``, uint8 [n, 64, 64]."""
        out = np.full((len(rows), MASK_SIDE, MASK_SIDE), UNMASKED, dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            chunk = self._mask_chunks.get(row // IMAGES_PER_CHUNK)
            if chunk is not None:
                out[place] = chunk[row % IMAGES_PER_CHUNK]
        return out

    @cached_property
    def _mask_chunks(self) -> dict[int, npt.NDArray[np.uint8]]:
        return {
            int(path.stem.removeprefix("masks-")): np.load(path, mmap_mode="r", allow_pickle=False)
            for path in self.folder.glob("masks-*.npy")
        }

    @cached_property
    def _chunks(self) -> list[npt.NDArray[np.uint8]]:
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(self.folder.glob("images-*.npy"))]


def row_batches(path: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of a Parquet file in order, at most ``rows`` at a time.

    One row group is read at a time, by this thread: else Arrow reads ahead to the end of the file, and its threads hold
    arenas that only grow.
    """
    with pq.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(rows, row_groups=[group], use_threads=False):
                yield batch.to_pylist()


def _of_split(table: pa.Table, split: str | None) -> pa.Table:
    return table if split is None else table.filter(pc.equal(table["split"], split))
