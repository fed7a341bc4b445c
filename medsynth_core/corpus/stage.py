"""The corpus stage: any source in, one normalised corpus out."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.corpus.images import resize_and_crop
from medsynth_core.corpus.normalised import IMAGES_PER_CHUNK, LEFT_OUT_SCHEMA, MASK_SIDE, STUDIES_SCHEMA, VIEWS_SCHEMA
from medsynth_core.corpus.readers import open_corpus
from medsynth_core.corpus.records import UNMASKED, BadRow, ImageU8, MaskU8, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig, CorpusParams
from medsynth_core.errors import InputError
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory

SPLITS = ("train", "judge", "val", "test")
_ROWS_A_FLUSH = 5000


@dataclass(frozen=True)
class CorpusReport:
    """What the corpus stage read.

    Attributes:
        studies, views: counts by split.
        masks: images whose organs are known.
        skipped: rows, images and masks that couldn't be read.
        left_out: reports of which a part isn't read, by the reason.
    """

    kind: str
    image_size: int
    licence: str
    studies: dict[str, int]
    views: dict[str, int]
    masks: int
    skipped: int
    left_out: dict[str, int]


def run(params: CorpusParams, paths: Paths, progress: Progress) -> CorpusReport:
    """Reads the corpus that ``corpus`` names and writes it normalised.

    Raises:
        InputError: a file or column is missing, nothing usable was found, or more than
            ``corpus.max_bad_fraction`` of rows and images is unreadable.
    """
    source = open_corpus(params.corpus, params.seed)
    with replace_directory(paths["corpus"]) as folder:
        writer = _Writer(folder, params)
        for done, item in enumerate(source.studies, start=1):
            if isinstance(item, BadRow):
                writer.skip(item)
            else:
                writer.add(item)
            if done % 200 == 0:
                progress(done, source.total)
        progress(source.total, source.total)
        return writer.close(source)


def split_of(patient_id: str, seed: int, config: CorpusConfig) -> str:
    """Returns the split of a patient: a hash of (seed, patient), so neither order nor corpus size matters."""
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    bound = 0.0
    for split in ("test", "val", "judge"):
        bound += getattr(config, f"{split}_fraction")
        if share < bound:
            return split
    return "train"


@dataclass
class _Writer:
    """Streams studies to Parquet and images to chunks; holds one chunk in memory."""

    folder: Path
    params: CorpusParams
    studies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    views: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    positions: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[BadRow] = field(default_factory=list)
    seen: int = 0
    rows: int = 0
    masks: int = 0

    def __post_init__(self) -> None:
        self._chunk: list[ImageU8] = []
        self._mask_chunk: list[MaskU8 | None] = []
        self._study_rows: list[dict[str, object]] = []
        self._view_rows: list[dict[str, object]] = []
        self._left_out_rows: list[dict[str, str]] = []
        self._ids: set[str] = set()
        self._studies = pq.ParquetWriter(self.folder / "studies.parquet", STUDIES_SCHEMA)
        self._views = pq.ParquetWriter(self.folder / "views.parquet", VIEWS_SCHEMA)
        self._left_out = pq.ParquetWriter(self.folder / "left_out.parquet", LEFT_OUT_SCHEMA)
        self._truth = (self.folder / "truth.jsonl").open("w", encoding="utf-8")

    def skip(self, row: BadRow) -> None:
        self.seen += 1
        self.bad.append(row)

    def add(self, study: Study) -> None:
        if study.study_id in self._ids:
            self.skip(BadRow(study.study_id, None, "study id repeats"))
            return
        self._ids.add(study.study_id)
        self.seen += 1
        split = split_of(study.patient_id, self.params.seed, self.params.corpus)
        kept = sum(self._add_view(study, view, split) for view in study.views)
        self.studies[split] += 1
        self._study_rows.append(
            {
                "study_id": study.study_id,
                "patient_id": study.patient_id,
                "split": split,
                "findings": study.findings,
                "impression": study.impression,
                "n_views": kept,
            }
        )
        self.left_out.update({part.reason for part in study.left_out})
        self._left_out_rows += [{"study_id": study.study_id, **part._asdict()} for part in study.left_out]
        if study.truth:
            self._truth.write(json.dumps({"study_id": study.study_id, **study.truth}, sort_keys=True) + "\n")
        if len(self._study_rows) >= _ROWS_A_FLUSH:
            self._flush_rows()

    def _add_view(self, study: Study, view: View, split: str) -> bool:
        if self.params.corpus.views == "frontal" and view.position == "lateral":
            return False
        self.seen += 1
        try:
            film = view.load()
        except InputError as error:
            self.bad.append(BadRow(view.source, None, str(error).removeprefix(f"{view.source}: ")))
            return False
        self._chunk.append(resize_and_crop(film, self.params.corpus.image_size))
        self._mask_chunk.append(self._mask(view, film.shape))
        self._view_rows.append(
            {
                "view_id": view.view_id,
                "study_id": study.study_id,
                "patient_id": study.patient_id,
                "split": split,
                "view": view.position,
                "row": self.rows,
                "source": view.source,
            }
        )
        self.rows += 1
        self.views[split] += 1
        self.positions[view.position] += 1
        if len(self._chunk) == IMAGES_PER_CHUNK:
            self._flush_images()
        return True

    def _mask(self, view: View, shape: tuple[int, ...]) -> MaskU8 | None:
        """Returns the organs of a view; an image is kept whatever is wrong with its mask."""
        if view.load_mask is None:
            return None
        self.seen += 1
        try:
            mask = view.load_mask()
            if mask.shape != shape:
                high, wide = mask.shape
                raise InputError(f"its mask has {wide}x{high} pixels, the image {shape[1]}x{shape[0]}")
        except InputError as error:
            self.bad.append(BadRow(view.source, None, str(error).removeprefix(f"{view.source}: ")))
            return None
        self.masks += 1
        return resize_and_crop(mask, MASK_SIDE, Image.Resampling.NEAREST)

    def _flush_images(self) -> None:
        if self._chunk:
            number = (self.rows - 1) // IMAGES_PER_CHUNK
            np.save(self.folder / f"images-{number:05d}.npy", np.stack(self._chunk), allow_pickle=False)
            if any(mask is not None for mask in self._mask_chunk):
                none = np.full((MASK_SIDE, MASK_SIDE), UNMASKED, dtype=np.uint8)
                masks = np.stack([none if mask is None else mask for mask in self._mask_chunk])
                np.save(self.folder / f"masks-{number:05d}.npy", masks, allow_pickle=False)
            self._chunk.clear()
            self._mask_chunk.clear()

    def _flush_rows(self) -> None:
        self._studies.write_table(pa.Table.from_pylist(self._study_rows, schema=STUDIES_SCHEMA))
        self._views.write_table(pa.Table.from_pylist(self._view_rows, schema=VIEWS_SCHEMA))
        self._left_out.write_table(pa.Table.from_pylist(self._left_out_rows, schema=LEFT_OUT_SCHEMA))
        self._study_rows.clear()
        self._view_rows.clear()
        self._left_out_rows.clear()

    def close(self, source: Source) -> CorpusReport:
        self._flush_images()
        self._flush_rows()
        self._studies.close()
        self._views.close()
        self._left_out.close()
        self._truth.close()
        limit = self.params.corpus.max_bad_fraction
        if self.bad and len(self.bad) > limit * self.seen:
            first = self.bad[0]
            where = first.source if first.row is None else f"{first.source} row {first.row}"
            raise InputError(
                f"{where}: {first.reason}; {len(self.bad)} of {self.seen} rows, images and masks are unreadable, "
                f"more than corpus.max_bad_fraction={limit}: repair them or raise it"
            )
        if not sum(self.studies.values()):
            raise InputError(f"{self.params.corpus.path or self.params.corpus.kind}: no study with a report in it")
        with (self.folder / "skipped.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["source", "row", "reason"])
            writer.writerows((bad.source, bad.row, bad.reason) for bad in self.bad)
        report = CorpusReport(
            self.params.corpus.kind,
            self.params.corpus.image_size,
            source.licence,
            self.studies,
            self.views,
            self.masks,
            len(self.bad),
            dict(sorted(self.left_out.items())),
        )
        about = {**asdict(report), "positions": dict(sorted(self.positions.items()))}
        (self.folder / "corpus.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        return report
