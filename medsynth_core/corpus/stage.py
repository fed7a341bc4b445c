"""The corpus stage: any source in, one normalised corpus out."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.config import Paths
from medsynth_core.cores import processes_for
from medsynth_core.corpus.kept import Kept, Partial, fingerprint, partial
from medsynth_core.corpus.normalised import (
    BOXES_SCHEMA,
    GIVEN_SCHEMA,
    IMAGES_PER_CHUNK,
    LEFT_OUT_SCHEMA,
    MASK_SIDE,
    STUDIES_SCHEMA,
    VIEWS_SCHEMA,
    image_chunk,
    mask_chunk,
)
from medsynth_core.corpus.readers import open_corpus
from medsynth_core.corpus.reading import Film, Item, read_films
from medsynth_core.corpus.records import UNMASKED, BadRow, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig, CorpusParams
from medsynth_core.corpus.suspects.looking import look
from medsynth_core.corpus.suspects.looks import SIDE as SMALLEST
from medsynth_core.errors import InputError
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory

log = logging.getLogger(__name__)

SPLITS = ("train", "judge", "val", "test")
_ROWS_A_FLUSH = 1000
_ROWS_A_PROCESS = 400
"""A further process is worth its start for this many rows more."""
_SHOWN = 8
"""Words that are shown of those that aren't known."""


@dataclass(frozen=True)
class CorpusReport:
    """What the corpus stage read.

    Attributes:
        studies, views: counts by split.
        masks: images whose organs are known.
        given: studies with findings that somebody assigned.
        boxes: places of findings.
        skipped: rows, images and masks that couldn't be read.
        suspects: images that seem faulty, by what seems wrong and what became of them.
        taken_over: images that were taken over from before.
        left_out: reports of which a part isn't read, by the reason.
    """

    kind: str
    image_size: int
    licence: str
    studies: dict[str, int]
    views: dict[str, int]
    masks: int
    given: int
    boxes: int
    skipped: int
    suspects: dict[str, int]
    taken_over: int
    left_out: dict[str, int]


def run(params: CorpusParams, paths: Paths, progress: Progress, *, update: bool = False) -> CorpusReport:
    """Reads the corpus that ``corpus`` names and writes it normalised.

    All cores decode. A run that was cut off goes on from the last whole chunk of images and ends in the same bytes.

    Args:
        update: images of the corpus that is there aren't read again where their files are as they were.

    Raises:
        InputError: a file or column is missing, nothing usable was found, or more than
            ``corpus.max_bad_fraction`` of rows and images is unreadable.
    """
    source = open_corpus(params.corpus, params.seed)
    target = paths["corpus"]
    beside = target.with_name(f"{target.name}-partial")
    looks = params.corpus.suspect != "ignore" and params.corpus.image_size >= SMALLEST and not source.drawn
    with partial(beside, params.corpus.image_size, looks, target if update else None) as making:
        with replace_directory(target) as folder:
            writer = _Writer(folder, making, params, source)
            items = (_item(row, params.corpus, making.kept) for row in source.studies)
            processes = processes_for(source.total, _ROWS_A_PROCESS)
            for done, (item, films) in enumerate(
                read_films(items, params.corpus.image_size, looks, processes), start=1
            ):
                writer.add(item, films)
                if done % 200 == 0:
                    progress(done, source.total)
            progress(source.total, source.total)
            report = writer.close(looks)
        return report


def _item(row: Study | BadRow, config: CorpusConfig, kept: Kept) -> Item:
    if isinstance(row, BadRow):
        return Item(row)
    wanted = tuple(view for view in row.views if config.views == "all" or view.projection != "lateral")
    names = tuple(fingerprint(view) for view in wanted)
    return Item(row, wanted, names, tuple(kept.find(name) for name in names))


def split_of(
    patient_id: str, seed: int, config: CorpusConfig, given: str | None = None, splits: Collection[str] = ()
) -> str:
    """Returns the split of a patient: a hash of (seed, patient), so neither order nor corpus size matters.

    Args:
        given: the source's own (train, val or test), which ``corpus.split: source`` obeys. Of its training patients
            are drawn the judge's, and those of the splits that it lacks.
        splits: that the source has.
    """
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    obeyed = given if config.split == "source" else None
    if obeyed in {"val", "test"}:
        return str(obeyed)
    bound = 0.0
    for split in ("test", "val", "judge"):
        if obeyed == "train" and split in splits:
            continue
        bound += getattr(config, f"{split}_fraction")
        if share < bound:
            return split
    return "train"


@dataclass
class _Tables:
    """The Parquet files of a corpus, written a few thousand rows at a time."""

    folder: Path

    def __post_init__(self) -> None:
        schemas = {
            "studies": STUDIES_SCHEMA,
            "views": VIEWS_SCHEMA,
            "given": GIVEN_SCHEMA,
            "boxes": BOXES_SCHEMA,
            "left_out": LEFT_OUT_SCHEMA,
        }
        self._schemas = schemas
        self._rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in schemas}
        self._writers = {
            name: pq.ParquetWriter(self.folder / f"{name}.parquet", schema) for name, schema in schemas.items()
        }

    def add(self, name: str, *rows: Mapping[str, Any]) -> None:
        self._rows[name] += rows
        if len(self._rows[name]) >= _ROWS_A_FLUSH:
            self._flush(name)

    def close(self) -> None:
        for name, writer in self._writers.items():
            self._flush(name)
            writer.close()

    def _flush(self, name: str) -> None:
        self._writers[name].write_table(pa.Table.from_pylist(self._rows[name], schema=self._schemas[name]))
        self._rows[name].clear()


@dataclass
class _Writer:
    """Streams studies to Parquet and images to chunks; holds one chunk in memory."""

    folder: Path
    making: Partial
    params: CorpusParams
    source: Source
    studies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    views: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    positions: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    called: Counter[str] = field(default_factory=Counter)
    bad: list[BadRow] = field(default_factory=list)
    seen: int = 0
    rows: int = 0
    masks: int = 0
    given: int = 0
    boxes: int = 0
    taken_over: int = 0

    def __post_init__(self) -> None:
        self._chunk: list[Film] = []
        self._journal: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._view_ids: set[str] = set()
        self._splits: dict[str, str] = {}
        self._tables = _Tables(self.folder)
        self._truth = (self.folder / "truth.jsonl").open("w", encoding="utf-8")

    def add(self, item: Item, films: Sequence[Film]) -> None:
        study = item.row
        self.seen += 1
        if isinstance(study, BadRow):
            self.bad.append(study)
            return
        if study.study_id in self._ids:
            self.bad.append(BadRow(study.study_id, None, "study id repeats"))
            return
        self._ids.add(study.study_id)
        split = self._split(study)
        read = zip(item.views, item.fingerprints, item.kept, films, strict=True)
        kept = sum(self._add_view(study, *each, split) for each in read)
        self.studies[split] += 1
        self._tables.add(
            "studies",
            {
                "study_id": study.study_id,
                "patient_id": study.patient_id,
                "split": split,
                "findings": study.findings,
                "impression": study.impression,
                "n_views": kept,
                "sex": study.sex,
                "age": study.age,
                "race": study.race,
            },
        )
        self.given += bool(study.given)
        self._tables.add("given", *({"study_id": study.study_id, **asdict(each)} for each in study.given))
        self.left_out.update({part.reason for part in study.left_out})
        self._tables.add("left_out", *({"study_id": study.study_id, **part._asdict()} for part in study.left_out))
        if study.truth:
            self._truth.write(json.dumps({"study_id": study.study_id, **study.truth}, sort_keys=True) + "\n")

    def _split(self, study: Study) -> str:
        """Returns the split of a study: its patient's, whatever the source says of a later one."""
        seed, config = self.params.seed, self.params.corpus
        if study.split is None:
            return self._splits.get(study.patient_id) or split_of(study.patient_id, seed, config)
        split = split_of(study.patient_id, seed, config, study.split, self.source.splits)
        return self._splits.setdefault(study.patient_id, split)

    def _add_view(self, study: Study, view: View, name: str, kept: object, film: Film, split: str) -> bool:
        self.seen += 1 if view.load_mask is None else 2
        self.bad += [BadRow(view.source, None, problem, view.named) for problem in film.problems]
        if film.image is None:
            return False
        if view.view_id in self._view_ids:
            self.bad.append(BadRow(view.source, None, "image is there twice", view.named))
            return False
        self._view_ids.add(view.view_id)
        self._chunk.append(film)
        self._journal.append(
            {
                "fingerprint": "" if film.problems else name,
                "boxes": json.dumps(film.boxes),
                "trimmed": film.trimmed,
                "inverted": False,
            }
        )
        self._tables.add(
            "views",
            {
                "view_id": view.view_id,
                "study_id": study.study_id,
                "patient_id": study.patient_id,
                "split": split,
                "view": view.position,
                "row": self.rows,
                "source": view.source,
                "projection": view.projection,
                "manufacturer": view.manufacturer,
                "pixel_spacing_mm": view.pixel_spacing_mm,
                "mended": "borders" if film.trimmed else None,
            },
        )
        self._tables.add("boxes", *({"row": self.rows, **box} for box in film.boxes))
        self.boxes += len(film.boxes)
        self.masks += film.mask is not None
        self.taken_over += kept is not None
        self.rows += 1
        self.views[split] += 1
        self.positions[view.position] += 1
        if view.called:
            self.called[view.called] += 1
        if len(self._chunk) == IMAGES_PER_CHUNK:
            self._flush_images()
        return True

    def _flush_images(self) -> None:
        if not self._chunk:
            return
        number = (self.rows - 1) // IMAGES_PER_CHUNK
        run = self.making.run
        np.save(image_chunk(run, number), np.stack([film.image for film in self._chunk if film.image is not None]))
        if any(film.mask is not None for film in self._chunk):
            none = np.full((MASK_SIDE, MASK_SIDE), UNMASKED, dtype=np.uint8)
            np.save(mask_chunk(run, number), np.stack([none if f.mask is None else f.mask for f in self._chunk]))
        self.making.note(number, self._journal)
        self._chunk.clear()
        self._journal.clear()

    def _look(self) -> dict[str, int]:
        """Returns what was found to be faulty, and counts the views that are left."""
        found = look(self.folder, self.params.corpus.suspect == "skip", self.params.seed)
        left = Counter(pq.read_table(self.folder / "views.parquet", columns=["split"])["split"].to_pylist())
        self.views = {split: left[split] for split in SPLITS}
        return found

    def close(self, looks: bool) -> CorpusReport:
        self._flush_images()
        self._tables.close()
        self._truth.close()
        limit = self.params.corpus.max_bad_fraction
        if self.bad and len(self.bad) > limit * self.seen:
            first = self.bad[0]
            where = first.named or (first.source if first.row is None else f"{first.source} row {first.row}")
            raise InputError(
                f"{where}: {first.reason}; {len(self.bad)} of {self.seen} rows, images and masks are unreadable, "
                f"more than corpus.max_bad_fraction={limit}: repair them or raise it"
            )
        if not sum(self.studies.values()):
            raise InputError(f"{self.params.corpus.path or self.params.corpus.kind}: no study with a report in it")
        if self.called:
            words = ", ".join(f"{word!r} ({n})" for word, n in self.called.most_common(_SHOWN))
            log.warning(
                "corpus: %d views are called %s, which is no projection that is known; they count as frontal",
                self.called.total(), words,
            )  # fmt: skip
        with (self.folder / "skipped.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["source", "row", "reason"])
            writer.writerows((bad.source, bad.row, bad.reason) for bad in self.bad)
        self.making.move_to(self.folder)
        suspects = self._look() if looks and self.rows else {}
        report = CorpusReport(
            self.params.corpus.kind,
            self.params.corpus.image_size,
            self.source.licence,
            self.studies,
            self.views,
            self.masks,
            self.given,
            self.boxes,
            len(self.bad),
            suspects,
            self.taken_over,
            dict(sorted(self.left_out.items())),
        )
        about = {name: value for name, value in asdict(report).items() if name != "taken_over"}
        about["images"] = self.rows
        about["positions"] = dict(sorted(self.positions.items()))
        about["unknown_projections"] = dict(sorted(self.called.items()))
        (self.folder / "corpus.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        return report
