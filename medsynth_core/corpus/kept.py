"""Films that need no second reading: of a corpus that was cut off in the making, or of the one that is brought up to
date."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.corpus.normalised import IMAGES_PER_CHUNK, image_chunk, mask_chunk
from medsynth_core.corpus.places import version_of
from medsynth_core.corpus.records import UNMASKED, View
from medsynth_core.hashing import sha256_json
from medsynth_core.storage.atomic import full_disk, write_bytes_atomically

if TYPE_CHECKING:
    from medsynth_core.corpus.reading import Film

_IDENTITY = "identity.json"
_FORM = 2
"""Raised when the same file would become another film."""
_DIGITS = 24
_JOURNAL = pa.schema(
    [("fingerprint", pa.string()), ("boxes", pa.string()), ("trimmed", pa.bool_()), ("inverted", pa.bool_())]
)
"""``inverted``: whether the chunk has the film the other way round than its file."""


@dataclass(frozen=True)
class KeptFilm:
    """Where a film is kept: a folder of chunks, a row, and what its journal says."""

    folder: Path
    row: int
    boxes: str
    trimmed: bool
    inverted: bool

    def film(self) -> Film:
        """Returns the film."""
        from medsynth_core.corpus.reading import Film

        number, place = divmod(self.row, IMAGES_PER_CHUNK)
        image = np.load(image_chunk(self.folder, number), mmap_mode="r")[place].copy()
        masks = mask_chunk(self.folder, number)
        mask = np.load(masks, mmap_mode="r")[place].copy() if masks.exists() else None
        if mask is not None and mask[0, 0] == UNMASKED:
            mask = None
        return Film(255 - image if self.inverted else image, mask, tuple(json.loads(self.boxes)), (), self.trimmed)


class Kept:
    """The films of chunks that are whole."""

    def __init__(self) -> None:
        self._films: dict[str, KeptFilm] = {}

    def add(self, folder: Path, first: int, journal: pa.Table) -> None:
        """Adds films from row ``first`` of a folder on; those without a fingerprint are left out."""
        for row, film in enumerate(journal.to_pylist(), start=first):
            if name := film.pop("fingerprint"):
                self._films[name] = KeptFilm(folder, row, **film)

    def find(self, name: str) -> KeptFilm | None:
        """Returns what is kept of a view, by its fingerprint."""
        return self._films.get(name)


def fingerprint(view: View) -> str:
    """Returns what a view is known by: its id, for a file may hold many, and path, size and time of change of each of
    its files; "" of what is in no file, or gone."""
    if not view.files:
        return ""
    try:
        said = [(str(path), *version_of(path)) for path in view.files]
    except OSError:
        return ""
    return sha256_json([view.view_id, said, [asdict(box) for box in view.boxes]])[:_DIGITS]


class Partial:
    """A corpus in the making, in a folder that a kill leaves: whole chunks of films, each with a journal of its own.

    Each run writes into a folder of its own inside it and takes films from the others', so that the chunks are those
    that an uninterrupted run writes.

    Attributes:
        kept: films that needn't be read again.
        run: where chunks are written.
    """

    def __init__(self, folder: Path, image_size: int, trim: bool, complete: Path | None) -> None:
        self._folder = folder
        identity = {"form": _FORM, "image_size": image_size, "trim": trim}
        if folder.exists() and _read_json(folder / _IDENTITY) != identity:
            shutil.rmtree(folder)
        earlier = sorted(folder.glob("run-*"))
        self.kept = Kept()
        if complete is not None and _read_json(complete / _IDENTITY) == identity:
            _add_journals(self.kept, complete)
        for run in earlier:
            _add_journals(self.kept, run)
        number = 1 + max((int(run.name.removeprefix("run-")) for run in earlier), default=-1)
        self.run = folder / f"run-{number:03d}"
        self.run.mkdir(parents=True)
        for place in (folder, self.run):
            write_bytes_atomically(place / _IDENTITY, (json.dumps(identity) + "\n").encode())

    def note(self, number: int, films: list[dict[str, Any]]) -> None:
        """Notes that a chunk is whole, with what is in its journal of each film."""
        path = _journal(self.run, number)
        unfinished = path.with_suffix(".new")
        pq.write_table(pa.Table.from_pylist(films, schema=_JOURNAL), unfinished)
        unfinished.replace(path)

    def move_to(self, folder: Path) -> None:
        """Puts the chunks of this run into another folder; here they stay as well, until ``drop``."""
        for path in sorted((*self.run.glob("*.npy"), *self.run.glob("*.parquet"), self.run / _IDENTITY)):
            try:
                (folder / path.name).hardlink_to(path)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, folder / path.name)

    def drop(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def partial(folder: Path, image_size: int, trim: bool, complete: Path | None) -> Iterator[Partial]:
    """Yields the corpus in the making; it is dropped when the block ends without an error.

    Args:
        complete: a corpus whose films are taken over.

    Raises:
        DiskError: the disk is full.
    """
    with full_disk(folder):
        making = Partial(folder, image_size, trim, complete)
        yield making
        making.drop()


def mend(folder: Path, rows: Collection[int]) -> None:
    """Inverts some films of a corpus that isn't published yet; their journals say so."""
    for number in sorted({row // IMAGES_PER_CHUNK for row in rows}):
        places = [row % IMAGES_PER_CHUNK for row in rows if row // IMAGES_PER_CHUNK == number]
        path, journal = image_chunk(folder, number), _journal(folder, number)
        images = np.load(path)
        images[places] = 255 - images[places]
        films = pq.read_table(journal).to_pylist()
        for place in places:
            films[place]["inverted"] = True
        path.unlink()  # it may be a link
        np.save(path, images, allow_pickle=False)
        journal.unlink()
        pq.write_table(pa.Table.from_pylist(films, schema=_JOURNAL), journal)


def _journal(run: Path, number: int) -> Path:
    return run / f"films-{number:05d}.parquet"


def _add_journals(kept: Kept, run: Path) -> None:
    for number, path in enumerate(sorted(run.glob("films-*.parquet"))):
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid):
            return
        kept.add(run, number * IMAGES_PER_CHUNK, table)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
