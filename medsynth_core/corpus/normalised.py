"""The normalised corpus on disk: Parquet tables of studies and views, images as memory-mapped chunks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medsynth_core.corpus.records import UNMASKED, Given
from medsynth_core.corpus.sections import LeftOut
from medsynth_core.errors import InputError

IMAGES_PER_CHUNK = 1024
MASK_SIDE = 64
"""Side of a mask in cells, whatever the images' is: organs are large."""
_ROWS_A_BATCH = 5000
_AGAIN = "run `medsynth corpus` again"
STUDIES_SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("findings", pa.string()),
        ("impression", pa.string()),
        ("n_views", pa.int32()),
        ("sex", pa.string()),
        ("age", pa.int32()),
        ("race", pa.string()),
    ]
)
"""``sex`` is F or M, ``age`` in years; each of the last three is null where it is unknown."""
VIEWS_SCHEMA = pa.schema(
    [
        ("view_id", pa.string()),
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("view", pa.string()),
        ("row", pa.int32()),
        ("source", pa.string()),
        ("projection", pa.string()),
        ("manufacturer", pa.string()),
        ("pixel_spacing_mm", pa.float32()),
        ("mended", pa.string()),
        ("suspect", pa.string()),
    ]
)
"""``view`` is frontal, lateral or unknown; ``projection`` tells PA, AP and AP supine apart where the source does.
``mended``: what was (inverted, borders), ``suspect``: what seems wrong and was left as it is; null where nothing is."""
GIVEN_SCHEMA = pa.schema(
    [("study_id", pa.string()), ("name", pa.string()), ("status", pa.string()), ("origin", pa.string())]
)
"""What is said of findings beside the reports: names as the source has them, status present, uncertain or absent, and
who says so."""
BOXES_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("name", pa.string()),
        ("origin", pa.string()),
        *((edge, pa.float32()) for edge in ("x0", "y0", "x1", "y1")),
    ]
)
"""Where findings were seen: edges in 0..1 of the image of ``row``, from its upper left corner."""
LEFT_OUT_SCHEMA = pa.schema([("study_id", pa.string()), ("reason", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class Corpus:
    """A normalised corpus.

    Attributes:
        image_size: side of its square images in pixels.
        n_images: images of its chunks, views or not.
        n_masks: images that have one.
        n_left_out: reports of which a part isn't read, by the reason.

    Its files are opened as they are needed. One that is missing, cut off or of another corpus is an InputError.
    """

    folder: Path
    image_size: int
    n_images: int
    n_masks: int
    n_left_out: Mapping[str, int]

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Returns the corpus that the corpus stage wrote.

        Raises:
            InputError: there is none.
        """
        path = folder / "corpus.json"
        try:
            about = json.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{folder}: no corpus there; run `medsynth corpus` first") from error
        except ValueError as error:
            raise InputError(f"{path}: no JSON; {_AGAIN}") from error
        n_images = about["images"] if "images" in about else _n_rows(folder / "views.parquet")
        return cls(folder, about["image_size"], n_images, about["masks"], about.get("left_out", {}))

    def n_studies(self) -> int:
        """Returns the number of studies."""
        return _n_rows(self.folder / "studies.parquet")

    def study_batches(self, rows: int) -> Iterator[list[dict[str, Any]]]:
        """Yields the studies of all splits in order, ``rows`` at a time, with the columns of ``STUDIES_SCHEMA`` and, as
        ``given``, what is said of their findings beside the reports."""
        with _table(self.folder / "studies.parquet") as table, _table(self.folder / "given.parquet") as given:
            said = groupby(chain.from_iterable(_batches(given, rows)), key=itemgetter("study_id"))
            upcoming = next(said, None)
            for batch in _batches(table, rows):
                for study in batch:
                    study["given"] = []
                    if upcoming is not None and upcoming[0] == study["study_id"]:
                        study["given"] = [Given(row["name"], row["status"], row["origin"]) for row in upcoming[1]]
                        upcoming = next(said, None)
                yield batch

    def studies(self, split: str | None = None) -> pa.Table:
        """Returns the studies of a split (all when None), columns of ``STUDIES_SCHEMA``."""
        return _of_split(self.folder / "studies.parquet", split)

    def views(self, split: str | None = None) -> pa.Table:
        """Returns the views of a split (all when None), columns of ``VIEWS_SCHEMA``."""
        return _of_split(self.folder / "views.parquet", split)

    def left_out(self, study_ids: Collection[str]) -> dict[str, list[LeftOut]]:
        """Returns what isn't read of the reports of some studies, in order; nothing of a study that is read whole."""
        found: dict[str, list[LeftOut]] = defaultdict(list)
        wanted = pa.array(study_ids, pa.string())
        with _table(self.folder / "left_out.parquet") as table:
            for batch in table.iter_batches(_ROWS_A_BATCH):
                for row in batch.filter(pc.is_in(batch["study_id"], wanted)).to_pylist():
                    found[row["study_id"]].append(LeftOut(row["reason"], row["text"]))
        return found

    def given(self, study_ids: Collection[str]) -> dict[str, list[Given]]:
        """Returns what is said of the findings of some studies beside their reports; nothing of a study without."""
        found: dict[str, list[Given]] = defaultdict(list)
        wanted = pa.array(study_ids, pa.string())
        with _table(self.folder / "given.parquet") as table:
            for batch in table.iter_batches(_ROWS_A_BATCH):
                for row in batch.filter(pc.is_in(batch["study_id"], wanted)).to_pylist():
                    found[row["study_id"]].append(Given(row["name"], row["status"], row["origin"]))
        return found

    def studies_given(self) -> frozenset[str]:
        """Returns the studies of whose findings something is said beside the reports."""
        with _table(self.folder / "given.parquet") as table:
            return frozenset(table.read(["study_id"])["study_id"].unique().to_pylist())

    def boxes(self) -> pa.Table:
        """Returns where findings were seen, columns of ``BOXES_SCHEMA``."""
        with _table(self.folder / "boxes.parquet") as table:
            return table.read()

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Returns the images of the given rows, uint8 [n, H, W].

        Raises:
            InputError: a chunk of theirs is missing, cut off or of another shape.
        """
        out = np.empty((len(rows), self.image_size, self.image_size), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            out[place] = self._chunk(row // IMAGES_PER_CHUNK)[row % IMAGES_PER_CHUNK]
        return out

    def masks(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Returns the masks of the given rows, numbers of ``records.ORGANS`` or ``UNMASKED``, uint8 [n, 64, 64].

        Raises:
            InputError: a chunk of masks is missing, cut off or of another shape.
        """
        out = np.full((len(rows), MASK_SIDE, MASK_SIDE), UNMASKED, dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            chunk = self._mask_chunks[row // IMAGES_PER_CHUNK]
            if chunk is not None:
                out[place] = chunk[row % IMAGES_PER_CHUNK]
        return out

    @cached_property
    def _rows_a_chunk(self) -> list[int]:
        """How many images each chunk holds: all are full but the last."""
        n = self.n_images
        return [min(IMAGES_PER_CHUNK, n - first) for first in range(0, n, IMAGES_PER_CHUNK)]

    def _chunk(self, number: int) -> npt.NDArray[np.uint8]:
        if number not in self._chunks:
            path = image_chunk(self.folder, number)
            self._chunks[number] = _mapped(path, (self._rows_a_chunk[number], self.image_size, self.image_size))
        return self._chunks[number]

    @cached_property
    def _chunks(self) -> dict[int, npt.NDArray[np.uint8]]:
        return {}

    @cached_property
    def _mask_chunks(self) -> list[npt.NDArray[np.uint8] | None]:
        """Every chunk of masks. One whose images all came without has no file, so the masks are counted."""
        paths = [mask_chunk(self.folder, number) for number in range(len(self._rows_a_chunk))]
        chunks = [
            _mapped(path, (rows, MASK_SIDE, MASK_SIDE)) if path.exists() else None
            for path, rows in zip(paths, self._rows_a_chunk, strict=True)
        ]
        found = sum(int((chunk[:, 0, 0] != UNMASKED).sum()) for chunk in chunks if chunk is not None)
        if found != self.n_masks:
            absent = ", ".join(path.name for path, chunk in zip(paths, chunks, strict=True) if chunk is None)
            raise InputError(
                f"{self.folder}: {found} masks, corpus.json counts {self.n_masks}; missing is one or more of "
                f"{absent or 'none'}; {_AGAIN}"
            )
        return chunks


def image_chunk(folder: Path, number: int) -> Path:
    """Returns the file of a chunk of images, uint8 [rows, H, W]."""
    return folder / f"images-{number:05d}.npy"


def mask_chunk(folder: Path, number: int) -> Path:
    """Returns the file of their masks, uint8 [rows, 64, 64]; it is left out where no image has one."""
    return folder / f"masks-{number:05d}.npy"


def _mapped(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    try:
        chunk: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; {_AGAIN}") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cut off or damaged ({error}); {_AGAIN}") from error
    if chunk.shape != shape or chunk.dtype != np.uint8:
        raise InputError(f"{path}: {chunk.dtype} {list(chunk.shape)}, expected uint8 {list(shape)}; {_AGAIN}")
    return chunk


@contextmanager
def _table(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; {_AGAIN}") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cut off or damaged ({error}); {_AGAIN}") from error


def _n_rows(path: Path) -> int:
    with _table(path) as table:
        return int(table.metadata.num_rows)


def row_batches(path: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of a Parquet file in order, at most ``rows`` at a time."""
    with pq.ParquetFile(path) as table:
        yield from _batches(table, rows)


def _batches(table: pq.ParquetFile, rows: int) -> Iterator[list[dict[str, Any]]]:
    """Reads one row group at a time, by this thread: else Arrow reads ahead to the end of the file, and its threads
    hold arenas that only grow."""
    for group in range(table.num_row_groups):
        for batch in table.iter_batches(rows, row_groups=[group], use_threads=False):
            yield batch.to_pylist()


def _of_split(path: Path, split: str | None) -> pa.Table:
    with _table(path) as parquet:
        table = parquet.read()
    return table if split is None else table.filter(pc.equal(table["split"], split))
