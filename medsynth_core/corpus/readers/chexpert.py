"""Reader of CheXpert v1.0, in its own size and as ``-small`` (Irvin et al. 2019, arXiv:1901.07031).

``train.csv`` and ``valid.csv`` have a film a row: Path, Sex, Age, Frontal/Lateral, AP/PA and fourteen findings, 1.0
present, 0.0 absent, -1.0 uncertain, empty where nothing is said. Those of train are a labeller's of the reports, which
the archive is without; those of valid three radiologists' of the films. ``test_labels.csv`` (CheXlocalize, Saporta et
al. 2022) has Path and findings, five radiologists', and ``test.csv`` beside it what else is known.

A film is known by the last three parts of its path, ``patientNNNNN/studyN/viewN_frontal.jpg``: what stands before them
in the tables (``CheXpert-v1.0-small/train``) needn't be what the folders are called, which the batches of the full
archive (``CheXpert-v1.0 batch 2 (train 1)``) bear out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from medsynth_core.corpus.archives import archive_folder, check_join, files_below, nearest_file
from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import age_of, labelled, sex_of
from medsynth_core.corpus.records import BadRow, Given, Recognised, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, header, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "CheXpert v1.0: Stanford University Dataset Research Use Agreement, not to be passed on"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
"""The findings of CheXpert's labeller, which MIMIC-CXR-JPG and CheXpert Plus have as well."""
DEPTH = 7
"""Folders between the one that is named and a film's."""
_FACTS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
_FILM = re.compile(r"(?:^|/)(patient\d+)/(study\d+)/([^/]+)\.(jpe?g|png|dcm|dicom)$", re.IGNORECASE)
_SUFFIXES = ("dcm", "dicom", "png", "jpeg", "jpg")
"""Those that are preferred where a film is there several times, last the most."""
_SAMPLED = 200
_FEW = 8

Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class _Part:
    """A table, its split and who labelled it."""

    pattern: str
    split: str
    origin: str
    facts: tuple[str, ...] = _FACTS


_PARTS = (
    _Part(r"train\.csv", "train", "CheXpert labeller"),
    _Part(r"valid\.csv", "val", "radiologist"),
    _Part(r"test_labels\.csv", "test", "radiologist", ()),
)


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path`` whose films are on disk; how many rows are without is a warning.

    Raises:
        InputError: a table, a column or every film is missing.
    """
    folder = archive_folder(config.path, "chexpert")
    files = list(files_below(folder, DEPTH))
    parts = [(part, path) for part in _PARTS if (path := nearest_file(folder, files, part.pattern)) is not None]
    if not parts:
        raise InputError(f"{folder}: no train.csv, valid.csv or test_labels.csv; CheXpert has them beside its images")
    images = image_place(folder, config.images)
    films = films_of(files if images == folder else files_below(images, DEPTH))
    tables = [(part, keyed(_with_facts(_opened(part, path), folder, files), "Path")) for part, path in parts]
    if not films:
        raise InputError(f"{images}: no film there; set corpus.images to the folder that patients' folders are in")
    keys = {key for _, table in tables for key in table.column("film") if key}
    check_join(tables[0][1].path, "films", keys, films.keys(), f"folder {images}")
    tables = [(part, _on_disk(table, films)) for part, table in tables]
    bad = [row for _, table in tables for row in table.bad]
    n_studies = sum(len(table.data["study"].unique()) for _, table in tables)
    total = min(n_studies, config.max_studies or n_studies) + len(bad)
    return Source(
        _all_studies(tables, films, images, bad, config), total, LICENCE, frozenset(part.split for part, _ in tables)
    )


def recognise(place: Path) -> Recognised | None:
    """Returns what a folder of CheXpert's tables holds; None of another."""
    if not place.is_dir():
        return None
    files = list(files_below(place, DEPTH, most=_FEW))
    tables = [(part, path) for part in _PARTS if (path := nearest_file(place, files, part.pattern)) is not None]
    tables = [(part, path) for part, path in tables if {"Path", "Cardiomegaly"} <= set(header(path))]
    if not tables:
        return None
    found: list[str] = []
    missing: list[str] = []
    for part, path in tables:
        paths = open_table(path, ["Path"]).column("Path")
        found.append(f"{part.split}: {len(paths)} films in {path.name}, labelled by {part.origin}")
        (found if (said := sampled(paths, place, files)).startswith("films") else missing).append(said)
    missing += [f"{part.split}: no table" for part in _PARTS if part not in [each for each, _ in tables]]
    return Recognised("CheXpert v1.0", {"kind": "chexpert", "path": str(place)}, tuple(found), tuple(missing))


def film_key(path: str) -> str | None:
    """Returns what a film is known by in tables and on disk, ``patientNNNNN/studyN/viewN_frontal``; None of a path
    that isn't a film's."""
    found = _FILM.search(path.replace("\\", "/"))
    return "/".join(found.groups()[:3]) if found else None


def films_of(files: Iterable[str]) -> dict[str, str]:
    """Returns the files of films by their keys; of one that is there several times its JPEG or PNG before its DICOM."""
    films: dict[str, str] = {}
    for name in files:
        key = film_key(name)
        if key is not None and (key not in films or _rank(name) > _rank(films[key])):
            films[key] = name
    return films


def _rank(name: str) -> int:
    return _SUFFIXES.index(name.rpartition(".")[2].lower())


def sampled(paths: Sequence[str], place: Path, files: Sequence[str]) -> str:
    """Returns in words how many films of a sample of a table's paths are on disk.

    Args:
        files: some of those below the place.
    """
    roots = {name[: found.start() + (name[found.start()] == "/")] for name in files if (found := _FILM.search(name))}
    keys = [key for path in paths[:: max(1, len(paths) // _SAMPLED)] if (key := film_key(path))]
    there = sum(
        any((place / root / f"{key}.{suffix}").exists() for root in roots for suffix in reversed(_SUFFIXES))
        for key in keys
    )
    return (
        f"films: {there} of {len(keys)} looked for are on disk" if there else "no film that was looked for is on disk"
    )


def keyed(table: Table, column: str) -> Table:
    """Returns a table with a column ``film``, the key of each row's film, and ``study``, its study's; a row that names
    no film has "" and a study of its own.

    Raises:
        InputError: no row names a film.
    """
    paths = table.column(column)
    films = [film_key(path) or "" for path in paths]
    if paths and not any(films):
        raise InputError(
            f"{table.path}: column {column!r} holds no film's path, e.g. {paths[0]!r}; "
            f"patientNNNNN/studyN/viewN_frontal.jpg is expected at its end"
        )
    studies = [film.rpartition("/")[0] or f"row {number}" for film, number in zip(films, table.numbers, strict=True)]
    data = table.data.append_column("film", pa.array(films, pa.string()))
    return Table(table.path, data.append_column("study", pa.array(studies, pa.string())), table.numbers, table.bad)


def age_said(cell: str) -> int | None:
    """Returns an age; None of 0, which stands where the archive, of adults, doesn't know it."""
    return age_of(cell) or None


def projection_said(frontal_lateral: str, ap_pa: str) -> str:
    """Returns a projection's word: AP or PA of a frontal film that says so."""
    return ap_pa if frontal_lateral == "Frontal" and ap_pa in {"AP", "PA"} else frontal_lateral


def _opened(part: _Part, path: Path) -> Table:
    """Returns a table of films; the test set's, whose files differ, may lack a finding."""
    if part.facts:
        return open_table(path, ["Path", *part.facts, *LABELS])
    table = open_table(path, ["Path"], [*_FACTS, *LABELS])
    if not set(LABELS) & set(table.columns):
        raise InputError(f"{path}: none of CheXpert's findings is a column (columns found: {', '.join(header(path))})")
    return table


def _with_facts(table: Table, folder: Path, files: Sequence[str]) -> Table:
    """Returns a table with all columns of facts: where it has none, those of test.csv beside it, else empty ones."""
    absent = [name for name in _FACTS if name not in table.columns]
    if not absent:
        return table
    facts: dict[str, dict[str, str]] = {}
    beside = nearest_file(folder, files, r"test\.csv")
    if beside is not None:
        known = open_table(beside, ["Path"], _FACTS)
        facts = {key: row for _, row in known.rows() if (key := film_key(row["Path"]))}
        keys = {key for path in table.column("Path") if (key := film_key(path))}
        check_join(beside, "films", facts.keys(), keys, str(table.path))
    data = table.data
    for name in absent:
        cells = [facts.get(film_key(path) or "", {}).get(name, "") for path in table.column("Path")]
        data = data.append_column(name, pa.array(cells, pa.string()))
    return Table(table.path, data, table.numbers, table.bad)


def _on_disk(table: Table, films: Mapping[str, str]) -> Table:
    """Returns the rows whose films are on disk, and those that name none."""
    there = np.array([not key or key in films for key in table.column("film")], dtype=bool)
    if not there.all():
        log.warning("%s: %d of %d films aren't on disk and are left out", table.path, (~there).sum(), len(there))
    return Table(table.path, table.data.filter(pa.array(there)), table.numbers[there], table.bad)


def _all_studies(
    tables: Sequence[tuple[_Part, Table]],
    films: Mapping[str, str],
    images: Path,
    bad: Sequence[BadRow],
    config: CorpusConfig,
) -> Iterator[Study | BadRow]:
    yield from bad
    groups = ((part, table.path, rows) for part, table in tables for rows in table.groups("study"))
    for part, path, rows in islice(groups, config.max_studies):
        yield from _study(part, path, rows, films, images, config)


def _study(
    part: _Part, path: Path, rows: Sequence[Row], films: Mapping[str, str], images: Path, config: CorpusConfig
) -> Iterator[Study | BadRow]:
    """Yields a study, and those of its rows that don't fit the first that can be read."""
    kept: list[Row] = []
    given: tuple[Given, ...] = ()
    for number, row in rows:
        try:
            said = _given(row, part.origin)
            _check(row, said, kept, given)
        except ValueError as error:
            yield BadRow(str(path), number, str(error))
            continue
        given = said
        kept.append((number, row))
    if not kept:
        return
    first = kept[0][1]
    patient, study = first["study"].split("/")
    yield Study(
        f"{patient}-{study}",
        patient,
        "",
        "",
        tuple(_view(row, films[row["film"]], images, config) for _, row in kept),
        given,
        sex=sex_of(first["Sex"]),
        age=age_said(first["Age"]),
        split=part.split,
    )


def _given(row: Mapping[str, str], origin: str) -> tuple[Given, ...]:
    """Returns the findings of a row.

    Raises:
        ValueError: a cell is none of a label's.
    """
    labels = [labelled(name, row[name], origin) for name in LABELS if name in row]
    return tuple(label for label in labels if label is not None)


def _check(row: Mapping[str, str], said: tuple[Given, ...], kept: Sequence[Row], given: tuple[Given, ...]) -> None:
    """Raises ValueError for a row that names no film, says nothing of it, or another thing than those before it."""
    if not row["film"]:
        raise ValueError(f"path {row['Path']!r} is no film's (patientNNNNN/studyN/viewN_frontal.jpg is expected)")
    if not said:
        raise ValueError("no finding is given")
    for number, other in kept:
        if other["film"] == row["film"]:
            raise ValueError(f"the film of row {number} again")
        if said != given:
            raise ValueError(f"other findings than row {number}, which is of the same study")
        for fact in ("Sex", "Age"):
            if row[fact] != other[fact]:
                raise ValueError(f"another {fact.lower()} than row {number}, which is of the same study")


def _view(row: Mapping[str, str], name: str, images: Path, config: CorpusConfig) -> View:
    """Returns a film's view; its file is named for frontal or lateral, where its table isn't."""
    side = row["Frontal/Lateral"] or row["film"].rpartition("_")[2].capitalize()
    return file_view(images, name, config, projection=projection_said(side, row["AP/PA"]))
