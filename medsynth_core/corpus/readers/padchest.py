"""Reader of PadChest: 160,861 films of 67,625 patients with labels by physicians (27%) or by a network that learnt from
them (Bustos et al., Medical Image Analysis 2020; table of 1 February 2019).

``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv``, as it is or compressed, has a row a film; the films of a study
share its labels. The films are PNG of 16 bits, in a folder for each ``ImageDir`` (0 to 54), in ``images/``, or beside
the table; those that were stored inverted aren't published. Reports are Spanish, without accents and endings, so no
study has a text: what they say is in ``Labels``. Places of findings aren't read.
"""

from __future__ import annotations

import ast
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import age_of, listed, sex_of
from medsynth_core.corpus.on_disk import ImageFile, image_key, images_in, size_of, with_images
from medsynth_core.corpus.places import place_of
from medsynth_core.corpus.records import NO_FINDING, BadRow, Given, Recognised, Source, Study, View
from medsynth_core.corpus.sections import LeftOut
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "PadChest: BIMCV's terms of use (research; neither shared nor re-identified), with a citation"

Row = tuple[int, dict[str, str]]

_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_ANY_TABLE = "PADCHEST_chest_x_ray_images_labels*.csv*"
_WANTED = ("ImageID", "StudyID", "PatientID", "Projection", "MethodLabel", "Labels")
_BIRTH, _DATE, _SEX = "PatientBirth", "StudyDate_DICOM", "PatientSex_DICOM"
_MAKER, _SPACING, _ROWS, _COLUMNS = "Manufacturer_DICOM", "SpatialResolution_DICOM", "Rows_DICOM", "Columns_DICOM"
_OPTIONAL = (_BIRTH, _DATE, _SEX, _MAKER, _SPACING, _ROWS, _COLUMNS, "Report")
_NOT_OF_A_CHEST = ("COSTAL", "EXCLUDE")
"""Projections of films of ribs, and of films that the archive's authors would leave out."""
_NO_FINDINGS = frozenset({"exclude", "unchanged", "suboptimal study"})
"""Labels that are about the report or the film."""
_ORIGINS = {"Physician": "PadChest physician", "RNN_model": "PadChest network"}
_SPANISH = "Spanish, without accents and endings"
_ROUNDED = r"^-?\d(\.\d+)?[eE]\+?\d+$"
_WIDE_MM = (150.0, 500.0)
"""Longer side of a film at the detector: the column is of the resolution, which is the pixels' spacing where that
gives a film of this size."""
_LOOKED_AT = 20


@dataclass(frozen=True)
class _Archive:
    """What is read beside the table.

    Attributes:
        whole: whether the files have the size that the table gives.
    """

    images: Mapping[str, ImageFile]
    whole: bool


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path`` of which films are there and findings are given.

    Raises:
        InputError: the table, a column or all films are missing, or a program has rounded the ids.
    """
    path = _table_path(place_of(config.path))
    place = image_place(path.parent, config.images)
    table = open_table(path, _WANTED, _OPTIONAL)
    for column in ("StudyID", "PatientID"):
        _check_ids(table, column)
        table = table.whole(column)
    images = images_in(_folders(place))
    table = _labelled(_of_chests(with_images(table, "ImageID", images, place, _advice(place, images))))
    archive = _Archive(images, _are_whole(table, images))
    studies = list(dict.fromkeys(table.column("StudyID")))[: config.max_studies]
    if config.max_studies is not None:
        table = table.where(_mask(pc.is_in(table.data["StudyID"], pa.array(studies, pa.string()))))
    total = len(studies) + len(table.bad)
    return Source(_studies(table, archive, config), total, LICENCE)


def _table_path(place: Path) -> Path:
    """Returns the table of a folder, or what is one itself."""
    if place.is_file():
        return place
    found = _found(place)
    if found is None:
        raise InputError(f"{place}: {_TABLE} isn't there; set corpus.path to the folder it is in")
    return found


def _found(place: Path) -> Path | None:
    return next(iter(sorted(place.glob(_ANY_TABLE))), None)


def _folders(place: Path) -> list[Path]:
    """Returns where films may lie in a folder."""
    parents = (place, place / "images")
    return [*(part for parent in parents for part in sorted(parent.glob("[0-9]*"))), place / "images", place]


def _advice(place: Path, images: Mapping[str, ImageFile]) -> str:
    """Returns what to do where no film is there because the archive wasn't unpacked."""
    packed = _packed(place)
    return "" if images or not packed else f"unpack {packed[0].name} and the other archives, each into a folder"


def _packed(place: Path) -> list[Path]:
    return sorted(place.glob("[0-9]*.zip"))


def _check_ids(table: Table, column: str) -> None:
    """Raises InputError for ids that a spreadsheet rounded, by which many would become one."""
    rounded = table.data[column].filter(pc.match_substring_regex(table.data[column], _ROUNDED))
    if len(rounded):
        raise InputError(
            f"{table.path}: column {column!r} holds ids that a program has rounded, e.g. {rounded[0].as_py()!r}; take "
            f"the table as it is published"
        )


def _of_chests(table: Table) -> Table:
    """Returns the rows of films of chests; says how many others there are."""
    others = pc.is_in(table.data["Projection"], pa.array(_NOT_OF_A_CHEST))
    n = pc.sum(others).as_py() or 0
    if n:
        log.warning("%s: %d films of projection %s are left out", table.path, n, " or ".join(_NOT_OF_A_CHEST))
    return table.where(~_mask(others))


def _labelled(table: Table) -> Table:
    """Returns the rows that name a finding or a normal chest; says how many others there are."""
    words = "|".join(_NO_FINDINGS)
    rest = pc.replace_substring_regex(pc.utf8_lower(table.data["Labels"]), f"['\"] *({words}) *['\"]", "")
    said = _mask(pc.match_substring_regex(rest, r"\w"))
    if not said.all():
        names = ", ".join(sorted(_NO_FINDINGS))
        log.warning("%s: %d films are left out, with no label or none but %s", table.path, int((~said).sum()), names)
    return table.where(said)


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(), dtype=np.bool_)


def _are_whole(table: Table, images: Mapping[str, ImageFile]) -> bool:
    """Returns whether the films have the size that the table gives, by the first that can be read."""
    for _, row in islice(table.rows(), _LOOKED_AT):
        file = images.get(image_key(row["ImageID"]))
        size = size_of(file.path) if file else None
        if size is not None:
            return size == (_number(row.get(_COLUMNS, "")), _number(row.get(_ROWS, "")))
    return False


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _studies(table: Table, archive: _Archive, config: CorpusConfig) -> Iterator[Study | BadRow]:
    yield from table.bad
    owners: dict[str, int] = {}
    for rows in table.groups("StudyID"):
        kept: list[Row] = []
        for number, row in rows:
            problem = _problem(row, kept, owners)
            if problem:
                yield BadRow(str(table.path), number, problem)
            else:
                owners[image_key(row["ImageID"])] = number
                kept.append((number, row))
        if kept:
            yield _study(kept, archive, config, table.path)


def _problem(row: Mapping[str, str], kept: list[Row], owners: Mapping[str, int]) -> str | None:
    """Returns what is wrong with a row beside those that are kept of its study, None where nothing is."""
    for column in ("ImageID", "StudyID", "PatientID"):
        if not row[column]:
            return f"nothing in column {column!r}"
    before = owners.get(image_key(row["ImageID"]))
    if before is not None:
        return f"its film is row {before}'s, too"
    for column, what in (("PatientID", "patient"), ("Labels", "labels")):
        if kept and row[column] != kept[0][1][column]:
            return f"another {what} than row {kept[0][0]}, which is of the same study"
    return None


def _study(rows: list[Row], archive: _Archive, config: CorpusConfig, path: Path) -> Study | BadRow:
    number, first = rows[0]
    try:
        given = _given(first)
    except ValueError as error:
        return BadRow(str(path), number, str(error))
    report = first.get("Report", "")
    return Study(
        f"padchest-{first['StudyID']}",
        f"padchest-{first['PatientID']}",
        "",
        "",
        tuple(_view(row, archive, config) for _, row in rows),
        given,
        sex=sex_of(first.get(_SEX, "")),
        age=_age(first),
        left_out=(LeftOut(_SPANISH, report),) if report else (),
    )


def _given(row: Mapping[str, str]) -> tuple[Given, ...]:
    """Returns the findings that a row names.

    Raises:
        ValueError: its labels aren't a list of names.
    """
    said = row["Labels"]
    try:
        names = ast.literal_eval(said)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"labels {said[:80]!r}; a list of names is expected, as ['cardiomegaly', 'scoliosis']")
    kept = (name.strip() for name in names if name.strip().lower() not in _NO_FINDINGS)
    given = listed(";".join(kept), _ORIGINS.get(row["MethodLabel"], "PadChest"))
    # Where there are others, the archive's authors took "normal" out, but not the network's " normal".
    return tuple(each for each in given if each.name != NO_FINDING) or given


def _view(row: Mapping[str, str], archive: _Archive, config: CorpusConfig) -> View:
    file = archive.images[image_key(row["ImageID"])]
    return file_view(
        file.folder,
        file.name,
        config,
        projection=row["Projection"],
        manufacturer=row.get(_MAKER) or None,
        pixel_spacing_mm=_spacing(row) if archive.whole else None,
    )


def _spacing(row: Mapping[str, str]) -> float | None:
    """Returns the spacing of the pixels, None where it would give a film of another size than there are."""
    spacing, *sides = (_number(row.get(name, "")) for name in (_SPACING, _ROWS, _COLUMNS))
    longer = max((side for side in sides if side is not None), default=None)
    if spacing is None or longer is None or not _WIDE_MM[0] <= spacing * longer <= _WIDE_MM[1]:
        return None
    return spacing


def _age(row: Mapping[str, str]) -> int | None:
    """Returns the years between a patient's birth and the study, which are known to the year."""
    born, taken = _number(row.get(_BIRTH, "")), _number(row.get(_DATE, "")[:4])
    return None if born is None or taken is None else age_of(str(taken - born))


def recognise(place: Path) -> Recognised | None:
    """Returns what is there of PadChest in a folder, None where it is something else."""
    path = _found(place) if place.is_dir() else None
    try:
        return None if path is None else _recognised(place, open_table(path, _WANTED))
    except InputError:
        return None


def _recognised(place: Path, table: Table) -> Recognised:
    images = images_in(_folders(place))
    there = sum(image_key(name) in images for name in table.column("ImageID"))
    studies, patients = (len(set(table.column(column))) for column in ("StudyID", "PatientID"))
    by = ", ".join(f"{n:,} by {who or 'nobody'}" for who, n in sorted(Counter(table.column("MethodLabel")).items()))
    missing = [f"{len(table) - there:,} films that the table names"] if there < len(table) else []
    packed = _packed(place)
    if packed:
        missing.append(f"the films in {packed[0].name} and the like, of {len(packed)} archives: unpack them")
    found = (
        f"{table.path.name}: {len(table):,} rows, {studies:,} studies of {patients:,} patients",
        f"{there:,} films",
        f"labels: {by}",
    )
    return Recognised("PadChest", {"kind": "padchest", "path": str(place)}, found, tuple(missing))
