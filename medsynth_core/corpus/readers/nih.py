"""Reader of NIH ChestX-ray14: 112,120 frontal films of 30,805 patients, with findings mined from reports that aren't
published (Wang et al., ChestX-ray8, CVPR 2017).

``Data_Entry_2017_v2020.csv``, or ``Data_Entry_2017.csv`` of before (ages as ``058Y``), names each film's findings, with
bars between, its patient, sex, age, projection, and the size and spacing of pixels before it became 1024 x 1024; the
commas in the names of the last columns are the table's own. ``train_val_list.txt`` and ``test_list.txt`` are the split,
``BBox_List_2017.csv`` has boxes that a radiologist drew. The films are PNG in ``images/``, in Kaggle's
``images_001/images/`` to ``images_012/images/``, or beside the table. Kaggle's sample of 5%, with
``sample_labels.csv``, is read, too.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from medsynth_core.corpus.archives import check_join
from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import age_of, listed, sex_of
from medsynth_core.corpus.on_disk import ImageFile, image_key, images_in, size_of, with_images
from medsynth_core.corpus.places import place_of
from medsynth_core.corpus.records import NO_FINDING, BadRow, Box, Recognised, Source, Study
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table, table_in
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "NIH ChestX-ray14: free to use, with credit to the NIH Clinical Center and a citation of Wang et al. (2017)"

_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
_BOXES = "BBox_List_2017.csv"
_SPLITS = {"train_val_list.txt": "train", "test_list.txt": "test"}
_IMAGE, _FINDINGS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_SEX = ("Patient Sex", "Patient Gender")
_WIDTH = ("OriginalImage[Width", "OriginalImageWidth")
_HEIGHT = ("Height]", "OriginalImageHeight")
_SPACING = ("OriginalImagePixelSpacing[x", "OriginalImagePixelSpacing_x")
_OPTIONAL = ("Patient Age", "View Position", *_SEX, *_WIDTH, *_HEIGHT, *_SPACING)
_BOX = ("Bbox [x", "y", "w", "h]")
_SIDE = 1024
"""Of the published films in pixels, which boxes are in."""
_NEARLY_SQUARE = 1.05
"""Longer over shorter side of films whose pixels are still square in a square."""
_NAME = re.compile(r"^(\d{8})_\d{3}$")
_TEXT_MINING, _RADIOLOGIST = "NIH text mining", "radiologist"
_LOOKED_AT = 20


@dataclass(frozen=True)
class _Archive:
    """What is read beside the table.

    Attributes:
        size: of the files in pixels, width and height; None where none can be read.
        splits: by ``image_key``.
        boxes: by ``image_key``, in pixels of the published films.
    """

    images: Mapping[str, ImageFile]
    size: tuple[int, int] | None
    splits: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[str, list[Box]] = field(default_factory=dict)


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns one study a film of ``corpus.path``, of those that are there.

    Raises:
        InputError: the table, a column or all films are missing, or the lists of the split are another archive's.
    """
    path = _table_path(place_of(config.path))
    place = image_place(path.parent, config.images)
    table = open_table(path, [_IMAGE, _FINDINGS, _PATIENT], _OPTIONAL).whole(_PATIENT)
    images = images_in(_folders(place))
    known = {image_key(name) for name in table.column(_IMAGE)}
    table = with_images(table, _IMAGE, images, place)
    boxes, bad = _boxes(path.parent, known)
    files = (images[key] for name in table.column(_IMAGE) if (key := image_key(name)) in images)
    archive = _Archive(images, _size(files), _splits(path, known), boxes)
    table = table.head(config.max_studies)
    bad = [*table.bad, *bad]
    return Source(
        _studies(table, bad, archive, config), len(table) + len(bad), LICENCE, frozenset(archive.splits.values())
    )


def _table_path(place: Path) -> Path:
    """Returns the table of a folder, or what is one itself."""
    if place.is_file():
        return place
    found = table_in([place], _TABLES)
    if found is None:
        raise InputError(f"{place}: neither {' nor '.join(_TABLES[:2])} is there; set corpus.path to their folder")
    return found


def _folders(place: Path) -> list[Path]:
    """Returns where films may lie in a folder."""
    parts = sorted(place.glob("images_*"))
    samples = (place / "sample" / "images", place / "sample" / "sample" / "images")
    return [place / "images", *(part / "images" for part in parts), *parts, place, *samples]


def _size(files: Iterable[ImageFile]) -> tuple[int, int] | None:
    """Returns the size of the films, by the first that can be read."""
    sizes = (size_of(file.path) for file in islice(files, _LOOKED_AT))
    size = next((size for size in sizes if size is not None), None)
    if size not in {None, (_SIDE, _SIDE)}:
        log.warning("nih: the films are %dx%d pixels, %d published: boxes and spacing are scaled", *size, _SIDE)
    return size


def _splits(path: Path, known: set[str]) -> dict[str, str]:
    """Returns the split of each film by the archive's lists.

    Raises:
        InputError: a film is in both lists, or none of them is in the table.
    """
    splits: dict[str, str] = {}
    for name, split in _SPLITS.items():
        file = path.with_name(name)
        if not file.is_file():
            log.warning("%s: not found, so that films of no list are split by chance", file)
            continue
        keys = [image_key(line) for line in _lines(file)]
        twice = next((key for key in keys if splits.get(key, split) != split), None)
        if twice is not None:
            raise InputError(f"{file}: {twice!r} is in {' and '.join(_SPLITS)}; take both from the archive again")
        splits.update(dict.fromkeys(keys, split))
    check_join(path.with_name(" and ".join(_SPLITS)), "films", splits.keys(), known, path.name)
    without = len(known - splits.keys())
    if splits and without:
        log.warning("%s: %d films are in no list of the split; they are split by chance", path, without)
    return splits


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a list of films ({' '.join(str(error).split())})") from error


def _boxes(folder: Path, known: set[str]) -> tuple[dict[str, list[Box]], list[BadRow]]:
    """Returns the boxes by film, and the rows that hold none."""
    path = table_in([folder], [_BOXES])
    if path is None:
        return {}, []
    table = open_table(path, [_IMAGE, "Finding Label", *_BOX])
    boxes: dict[str, list[Box]] = defaultdict(list)
    bad = list(table.bad)
    for number, row in table.rows():
        try:
            x, y, width, height = (float(row[column]) for column in _BOX)
        except ValueError:
            bad.append(BadRow(str(path), number, f"a box of {[row[column] for column in _BOX]}, not of four numbers"))
            continue
        box = Box(row["Finding Label"], _RADIOLOGIST, x, y, width, height)
        boxes[image_key(row[_IMAGE])].append(box)
    if boxes and known.isdisjoint(boxes):
        log.warning("%s: none of its %d films, e.g. %r, is in the table", path, len(boxes), next(iter(boxes)))
    return boxes, bad


def _studies(table: Table, bad: list[BadRow], archive: _Archive, config: CorpusConfig) -> Iterator[Study | BadRow]:
    yield from bad
    rows: dict[str, int] = {}
    for number, row in table.rows():
        problem = _problem(row, rows.get(image_key(row[_IMAGE])))
        if problem:
            yield BadRow(str(table.path), number, problem)
            continue
        rows[image_key(row[_IMAGE])] = number
        yield _study(row, archive, config)


def _problem(row: Mapping[str, str], before: int | None) -> str | None:
    """Returns what is wrong with a row, None where nothing is.

    Args:
        before: the row that has named the film.
    """
    for column in (_IMAGE, _PATIENT, _FINDINGS):
        if not row[column]:
            return f"nothing in column {column!r}"
    if before is not None:
        return f"its film is row {before}'s, too"
    named = _NAME.match(image_key(row[_IMAGE]))
    if named and not (row[_PATIENT].isdigit() and int(named[1]) == int(row[_PATIENT])):
        return f"film {row[_IMAGE]!r} is of patient {int(named[1])} by its name, of {row[_PATIENT]!r} by its row"
    names = {given.name for given in listed(row[_FINDINGS], _TEXT_MINING)}
    return f"both no finding and others: {row[_FINDINGS]!r}" if NO_FINDING in names and len(names) > 1 else None


def _study(row: Mapping[str, str], archive: _Archive, config: CorpusConfig) -> Study:
    key = image_key(row[_IMAGE])
    file = archive.images[key]
    view = file_view(
        file.folder,
        file.name,
        config,
        projection=row.get("View Position", ""),
        boxes=_scaled(archive.boxes.get(key, ()), archive.size),
        pixel_spacing_mm=_spacing(row, archive.size),
    )
    return Study(
        f"nih-{key}",
        f"nih-{row[_PATIENT].lstrip('0')}",
        "",
        "",
        (view,),
        listed(row[_FINDINGS], _TEXT_MINING),
        sex=sex_of(_first(row, _SEX)),
        age=age_of(row.get("Patient Age", "")),
        split=archive.splits.get(key),
    )


def _scaled(boxes: Iterable[Box], size: tuple[int, int] | None) -> tuple[Box, ...]:
    """Returns boxes in pixels of the files, none where their size is unknown."""
    if size is None:
        return ()
    x, y = size[0] / _SIDE, size[1] / _SIDE
    return tuple(Box(b.name, b.origin, b.x * x, b.y * y, b.width * x, b.height * y) for b in boxes)


def _spacing(row: Mapping[str, str], size: tuple[int, int] | None) -> float | None:
    """Returns the spacing of a file's pixels; None of films that were far from square before they were made so."""
    try:
        width, height, spacing = (float(_first(row, names)) for names in (_WIDTH, _HEIGHT, _SPACING))
    except ValueError:
        return None
    if size is None or min(width, height, spacing) <= 0 or max(width, height) > _NEARLY_SQUARE * min(width, height):
        return None
    return spacing * width / size[0]


def _first(row: Mapping[str, str], names: Iterable[str]) -> str:
    """Returns the first cell that isn't empty."""
    return next((row[name] for name in names if row.get(name)), "")


def recognise(place: Path) -> Recognised | None:
    """Returns what is there of NIH ChestX-ray14 in a folder, None where it is something else."""
    path = table_in([place], _TABLES)
    try:
        return None if path is None else _recognised(place, open_table(path, [_IMAGE, _FINDINGS, _PATIENT]))
    except InputError:
        return None


def _recognised(place: Path, table: Table) -> Recognised:
    images = images_in(_folders(place))
    there = sum(image_key(name) in images for name in table.column(_IMAGE))
    patients, labels = set(table.column(_PATIENT)), _labels(table)
    lists = [place / name for name in _SPLITS]
    missing = [f"{file.name}: without it, films are split by chance" for file in lists if not file.is_file()]
    if table_in([place], [_BOXES]) is None:
        missing.append(f"{_BOXES}: without it, there are no boxes")
    if there < len(table):
        missing.append(f"{len(table) - there:,} films that the table names")
    found = (
        f"{table.path.name}: {len(table):,} rows of {len(patients):,} patients",
        f"{there:,} films",
        f"{len(labels)} labels: {', '.join(labels)}",
        *(f"{len(_lines(file)):,} films in {file.name}" for file in lists if file.is_file()),
    )
    return Recognised("NIH ChestX-ray14", {"kind": "nih", "path": str(place)}, found, tuple(missing))


def _labels(table: Table) -> list[str]:
    return sorted({given.name for cell in set(table.column(_FINDINGS)) for given in listed(cell, _TEXT_MINING)})
