"""Reader of VinDr-CXR 1.0.0: 18,000 PA films with findings and boxes by radiologists (Nguyen et al., Scientific Data
2022; PhysioNet), and of its training films as Kaggle's VinBigData contest has them.

PhysioNet's layout: ``annotations/image_labels_train.csv`` has a row a film and radiologist, three a film, and a
column a finding (1 or 0); ``image_labels_test.csv`` a row a film, on which five agreed;
``annotations_train.csv`` and ``annotations_test.csv`` have their boxes in pixels of the DICOM; the films are
``train/<image_id>.dicom`` and ``test/<image_id>.dicom``. Kaggle's layout: ``train.csv`` has a row a box, or for a
radiologist who found nothing, and ``train/`` the films: DICOM, or PNG or JPEG that somebody made of them, whose boxes
are read where ``train_meta.csv`` (image_id, dim0, dim1) or columns width and height of ``train.csv`` say how large the
DICOM was.

A finding is present where two radiologists or the only one say so, uncertain where one of several does, absent where
none does. Sex, age, manufacturer and spacing are the DICOM's, read as the films come.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medsynth_core.corpus.archives import check_join
from medsynth_core.corpus.dicom import Header, read_header
from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import labelled
from medsynth_core.corpus.on_disk import ImageFile, image_key, images_in, size_of, with_images
from medsynth_core.corpus.places import place_of
from medsynth_core.corpus.records import NO_FINDING, BadRow, Box, Given, Recognised, Source, Status, Study
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, header, open_table, table_in
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "VinDr-CXR 1.0.0: PhysioNet Credentialed Health Data Use Agreement 1.5.0 (Kaggle's part: the contest's rules)"

Size = tuple[float, float]
"""Width and height in pixels."""

_ORIGIN = "radiologist"
_SPLITS = ("train", "test")
_IMAGE, _READER, _CLASS = "image_id", "rad_id", "class_name"
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_KAGGLE, _META = "train.csv", "train_meta.csv"
_SIZE = ("width", "height")
_SAME = {"Other disease": "Other diseases"}
"""Names of the test set's table that the training set's has otherwise."""
_YES_NO = frozenset({"1", "1.0", "0", "0.0", ""})
_CELLS: dict[Status, str] = {"present": "1", "absent": "0", "uncertain": "-1"}


@dataclass(frozen=True)
class _Part:
    """The films of one table of labels.

    Attributes:
        split: None where the archive has none.
        labels: its rows whose films are there.
        names: of findings.
        by_column: whether each finding has a column; else each row names one.
        boxes: by ``image_key``, in pixels of the DICOM.
        sizes: of the DICOM, by ``image_key``, where they are known.
        bad: rows of boxes that hold none.
    """

    split: str | None
    labels: Table
    names: tuple[str, ...]
    by_column: bool
    boxes: Mapping[str, list[Box]]
    sizes: Mapping[str, Size]
    bad: tuple[BadRow, ...]


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns one study a film of ``corpus.path``, of those that are there; each counts as a patient of its own.

    Raises:
        InputError: a table, a column or all films are missing, or the boxes are of other films than the labels.
    """
    base = place_of(config.path)
    place = image_place(base, config.images)
    images = images_in(_folders(place))
    parts = [_with_images(part, images, place) for part in _there(_parts(base), images)]
    log.warning("%s: VinDr-CXR names no patients, so that each film counts as a patient of its own", base)
    _say_what_lacks(parts, images)
    if config.max_studies is not None:
        parts = _first(parts, config.max_studies)
    total = sum(len(_keys(part)) + len(part.labels.bad) + len(part.bad) for part in parts)
    return Source(
        _studies(parts, images, config), total, LICENCE, frozenset(part.split for part in parts if part.split)
    )


def _folders(place: Path) -> list[Path]:
    """Returns where films may lie in a folder."""
    return [parent / split for parent in (place, place / "images") for split in (*_SPLITS, "")]


def _in(base: Path, name: str) -> Path | None:
    return table_in([base / "annotations", base], [name])


def _parts(base: Path) -> list[_Part]:
    """Returns what the archive's tables say, of films that may not be there."""
    tables = {split: _in(base, f"image_labels_{split}.csv") for split in _SPLITS}
    parts = [_physionet(base, split, path) for split, path in tables.items() if path is not None]
    kaggle = _in(base, _KAGGLE)
    if not parts and kaggle is None:
        raise InputError(
            f"{base}: neither annotations/image_labels_train.csv (PhysioNet) nor {_KAGGLE} (Kaggle) is there; set "
            f"corpus.path to the folder that they are in"
        )
    return parts or [_contest(base, kaggle)] if kaggle is not None else parts


def _physionet(base: Path, split: str, path: Path) -> _Part:
    names = [name for name in header(path) if name and name.lower() not in {_IMAGE, _READER}]
    table = open_table(path, [_IMAGE, *names], [_READER])
    boxes, bad = _boxes_of(base, split, table)
    return _Part(split, table, tuple(names), True, boxes, _sizes(base, split), tuple(bad))


def _boxes_of(base: Path, split: str, labels: Table) -> tuple[Mapping[str, list[Box]], list[BadRow]]:
    path = _in(base, f"annotations_{split}.csv")
    if path is None:
        log.warning("%s: annotations_%s.csv isn't there, so that its films have no boxes", base, split)
        return {}, []
    table = open_table(path, [_IMAGE, _CLASS, *_EDGES])
    check_join(path, "films", set(table.column(_IMAGE)), set(labels.column(_IMAGE)), labels.path.name)
    boxes, bad = _boxes(table)
    return boxes, [*table.bad, *bad]


def _contest(base: Path, path: Path) -> _Part:
    table = open_table(path, [_IMAGE, _READER, _CLASS, *_EDGES], _SIZE)
    boxes, bad = _boxes(table)
    names = tuple(sorted(set(table.column(_CLASS)) - {""}))
    sizes = _sizes(base, "train")
    if not sizes and set(_SIZE) <= set(table.columns):
        sizes = _read_sizes(table, *_SIZE)
    return _Part(None, table, names, False, boxes, sizes, tuple(bad))


def _boxes(table: Table) -> tuple[dict[str, list[Box]], list[BadRow]]:
    """Returns the boxes by film, and the rows that hold none though they should."""
    boxes: dict[str, list[Box]] = defaultdict(list)
    bad: list[BadRow] = []
    for number, row in table.rows():
        edges = [row[edge] for edge in _EDGES]
        if row[_CLASS].lower() == NO_FINDING or not any(edges):
            continue
        try:
            x0, y0, x1, y1 = map(float, edges)
        except ValueError:
            bad.append(BadRow(str(table.path), number, f"a box of {edges}, not of four numbers"))
            continue
        if x1 <= x0 or y1 <= y0:
            bad.append(BadRow(str(table.path), number, f"a box without an inside: {', '.join(_EDGES)} are {edges}"))
            continue
        boxes[image_key(row[_IMAGE])].append(Box(_named(row[_CLASS]), _ORIGIN, x0, y0, x1 - x0, y1 - y0))
    return boxes, bad


def _sizes(base: Path, split: str) -> dict[str, Size]:
    path = _in(base, f"{split}_meta.csv")
    return {} if path is None else _read_sizes(open_table(path, [_IMAGE, "dim0", "dim1"]), "dim1", "dim0")


def _read_sizes(table: Table, width: str, height: str) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for number, row in table.rows():
        try:
            sizes[image_key(row[_IMAGE])] = float(row[width]), float(row[height])
        except ValueError as error:
            raise InputError(f"{table.path} row {number}: {width} and {height} aren't numbers") from error
    return sizes


def _there(parts: list[_Part], images: Mapping[str, ImageFile]) -> list[_Part]:
    """Returns the parts of which films are there; all where none is."""
    there = [part for part in parts if any(key in images for key in _keys(part))]
    for part in parts:
        if there and part not in there:
            log.warning("%s: none of its %d films is there, so it isn't read", part.labels.path, len(_keys(part)))
    return there or parts


def _with_images(part: _Part, images: Mapping[str, ImageFile], place: Path) -> _Part:
    return replace(part, labels=with_images(part.labels, _IMAGE, images, place))


def _keys(part: _Part) -> list[str]:
    """Returns the ``image_key`` of each film, in the order of the table."""
    return list(dict.fromkeys(image_key(name) for name in part.labels.column(_IMAGE) if name))


def _first(parts: list[_Part], n: int) -> list[_Part]:
    """Returns the first ``n`` films."""
    first: list[_Part] = []
    for part in parts:
        keys = set(_keys(part)[:n])
        n -= len(keys)
        kept = np.array([image_key(name) in keys for name in part.labels.column(_IMAGE)], dtype=np.bool_)
        first.append(replace(part, labels=part.labels.where(kept)))
    return first


def _say_what_lacks(parts: list[_Part], images: Mapping[str, ImageFile]) -> None:
    """Says which films have boxes of an unknown scale, and that no film is held out where one split is there alone."""
    unscaled = sum(
        not images[key].is_dicom and key in part.boxes and key not in part.sizes
        for part in parts
        for key in _keys(part)
    )
    if unscaled:
        log.warning(
            "vindr: %d films with boxes were made of a DICOM whose size isn't known: their boxes are left out; put %s "
            "(image_id, dim0, dim1) beside the table",
            unscaled, _META,
        )  # fmt: skip
    if {part.split for part in parts} == {"test"}:
        log.warning("vindr: only films of its test split are there; corpus.split=chance trains on some")


def _studies(parts: list[_Part], images: Mapping[str, ImageFile], config: CorpusConfig) -> Iterator[Study | BadRow]:
    for part in parts:
        yield from (*part.labels.bad, *part.bad)
        for rows in part.labels.groups(_IMAGE):
            kept: list[dict[str, str]] = []
            for number, row in rows:
                problem = _problem(row, kept, part)
                if problem:
                    yield BadRow(str(part.labels.path), number, problem)
                else:
                    kept.append(row)
            if kept:
                yield _study(kept, part, images[image_key(kept[0][_IMAGE])], config)


def _problem(row: Mapping[str, str], kept: Sequence[Mapping[str, str]], part: _Part) -> str | None:
    """Returns what is wrong with a row beside those that are kept of its film, None where nothing is."""
    if not row[_IMAGE]:
        return f"nothing in column {_IMAGE!r}"
    if not part.by_column:
        empty = next((column for column in (_READER, _CLASS) if not row[column]), None)
        return None if empty is None else f"nothing in column {empty!r}"
    if any(row.get(_READER) == other.get(_READER) for other in kept):
        return f"a second row of {row.get(_READER) or 'the radiologists'} for the same film"
    if not any(row[name] for name in part.names):
        return "no finding is labelled"
    odd = next((name for name in part.names if row[name] not in _YES_NO), None)
    return None if odd is None else f"{row[odd]!r} for {odd!r}; 1 or 0 is expected"


def _study(rows: Sequence[Mapping[str, str]], part: _Part, file: ImageFile, config: CorpusConfig) -> Study:
    key = image_key(rows[0][_IMAGE])
    about = _header(file)
    view = file_view(
        file.folder,
        file.name,
        config,
        projection="PA",
        boxes=_in_the_file(part.boxes.get(key, ()), file, part.sizes.get(key)),
        manufacturer=about.manufacturer if about else None,
        pixel_spacing_mm=about.pixel_spacing_mm if about else None,
    )
    study = f"vindr-{key}"
    return Study(
        study,
        study,
        "",
        "",
        (view,),
        _by_column(rows, part.names) if part.by_column else _by_row(rows, part.names),
        sex=about.sex if about else None,
        age=(about.age or None) if about else None,  # 0 years stands where the age was taken out
        split=part.split,
    )


def _header(file: ImageFile) -> Header | None:
    """Returns what a DICOM says of itself; None where it can't be read, which is told when the film is."""
    if not file.is_dicom:
        return None
    try:
        return read_header(file.path)
    except InputError:
        return None


def _by_column(rows: Sequence[Mapping[str, str]], names: Iterable[str]) -> tuple[Given, ...]:
    """Returns the findings of rows that have a column for each."""
    given: list[Given] = []
    for name in names:
        said = [row[name] for row in rows if row[name]]
        if said:
            given += _decided(name, sum(float(cell) == 1 for cell in said), len(said))
    return tuple(given)


def _by_row(rows: Sequence[Mapping[str, str]], names: Iterable[str]) -> tuple[Given, ...]:
    """Returns the findings of rows that name one each."""
    readers = len({row[_READER] for row in rows})
    given: list[Given] = []
    for name in names:
        given += _decided(name, len({row[_READER] for row in rows if row[_CLASS] == name}), readers)
    return tuple(given)


def _decided(name: str, n_yes: int, n: int) -> list[Given]:
    """Returns a finding by how many of ``n`` radiologists saw it."""
    status: Status = "absent" if not n_yes else "present" if n_yes >= 2 or n == 1 else "uncertain"
    given = labelled(_named(name), _CELLS[status], _ORIGIN)
    return [] if given is None else [given]


def _named(name: str) -> str:
    return _SAME.get(name, name)


def _in_the_file(boxes: Iterable[Box], file: ImageFile, of_dicom: Size | None) -> tuple[Box, ...]:
    """Returns boxes in pixels of the file; none where it isn't DICOM and nothing says how much it was scaled."""
    if file.is_dicom:
        return tuple(boxes)
    size = size_of(file.path) if of_dicom and boxes else None
    if of_dicom is None or size is None:
        return ()
    x, y = size[0] / of_dicom[0], size[1] / of_dicom[1]
    return tuple(Box(b.name, b.origin, b.x * x, b.y * y, b.width * x, b.height * y) for b in boxes)


def recognise(place: Path) -> Recognised | None:
    """Returns what is there of VinDr-CXR in a folder, None where it is something else."""
    try:
        if not place.is_dir() or not _is_vindr(place):
            return None
        parts = _parts(place)
    except InputError:
        return None
    images = images_in(_folders(place))
    found: list[str] = []
    missing: list[str] = []
    for part in parts:
        keys = _keys(part)
        there = sum(key in images for key in keys)
        n_boxes = sum(map(len, part.boxes.values()))
        found.append(f"{part.labels.path.name}: {len(keys):,} films, {there:,} of them there, {n_boxes:,} boxes")
        if there < len(keys):
            missing.append(f"{len(keys) - there:,} films that {part.labels.path.name} names")
        if not part.boxes:
            missing.append(f"annotations_{part.split}.csv: without it, there are no boxes")
    found.append(f"{len(parts[0].names)} labels: {', '.join(parts[0].names)}")
    what = "VinDr-CXR" if parts[0].by_column else "VinDr-CXR as Kaggle's VinBigData has it"
    return Recognised(what, {"kind": "vindr", "path": str(place)}, tuple(found), tuple(missing))


def _is_vindr(place: Path) -> bool:
    """Returns whether a folder's tables have VinDr-CXR's columns."""
    for name in (f"image_labels_{split}.csv" for split in _SPLITS):
        path = _in(place, name)
        if path is not None:
            return {_IMAGE, "Aortic enlargement"} <= set(header(path))
    path = _in(place, _KAGGLE)
    return path is not None and {_IMAGE, _READER, _CLASS, *_EDGES} <= set(header(path))
