"""Reader of CheXpert Plus: CheXpert's films with their reports (Chambon et al. 2024, arXiv:2405.19538).

``df_chexpert_plus_240401.csv`` has a film a row: path_to_image (``train/patientNNNNN/studyN/viewN_frontal.jpg``),
frontal_lateral, ap_pa, deid_patient_id, the report whole and by sections, age, sex, race, split (train or valid) and
more of the patient, which isn't read. The films are below ``PNG`` or ``DICOM``, or CheXpert's own, which have the same
names. ``chexbert_labels`` has JSON a line, path_to_image and fourteen findings (1, 0, -1, null), which CheXbert read
from the impressions (``impression_fixed.json``), whole reports or findings. One of the three is read, in this order:
a whole report's labels are of its history, too. Those of a section that a study is without are of nothing, and left
out.
"""

from __future__ import annotations

import io
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from medsynth_core.corpus.archives import archive_folder, check_join, files_below, nearest_file
from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import labelled, sex_of, split_named, splits_in
from medsynth_core.corpus.places import opened_uncompressed
from medsynth_core.corpus.readers.chexpert import (
    DEPTH,
    LABELS,
    Row,
    age_said,
    film_key,
    films_of,
    keyed,
    projection_said,
    sampled,
)
from medsynth_core.corpus.records import BadRow, Given, Recognised, Source, Study
from medsynth_core.corpus.sections import LeftOut, read_sections
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "CheXpert Plus: Stanford University Dataset Research Use Agreement, not to be passed on"
_TABLE = r"df_chexpert_plus_\d{6}\.(?:csv|parquet)"
_COLUMNS = (
    "path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "report", "section_findings", "section_impression",
    "age", "sex", "race", "split",
)  # fmt: skip
_LABELLED = {"impression": "section_impression", "report": "report", "findings": "section_findings"}
"""Texts that have labels, the preferred one first, and their columns."""
_ONE_A_STUDY = {
    "patient": ("deid_patient_id",), "report": ("report", "section_findings", "section_impression"), "sex": ("sex",),
    "age": ("age",), "split": ("split",),
}  # fmt: skip
_FEW = 8


@dataclass(frozen=True)
class _Labels:
    """CheXbert's labels by study.

    Attributes:
        column: of the text that they are of.
    """

    column: str = "report"
    by_study: dict[str, tuple[Given, ...]] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)

    def of(self, row: Mapping[str, str]) -> tuple[Given, ...]:
        """Returns what is said of a row's study."""
        return self.by_study.get(row["study"], ()) if row[self.column] else ()


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path``, those with films on disk first; the others have their reports alone.

    Raises:
        InputError: the table or a column is missing, or its films are another archive's.
    """
    folder = archive_folder(config.path, "chexpert-plus")
    files = list(files_below(folder, DEPTH))
    path = nearest_file(folder, files, _TABLE)
    if path is None:
        raise InputError(f"{folder}: no df_chexpert_plus_240401.csv; CheXpert Plus's reports are in it")
    table = keyed(open_table(path, _COLUMNS), "path_to_image")
    images = image_place(folder, config.images)
    films = films_of(files if images == folder else files_below(images, DEPTH))
    keys = {key for key in table.column("film") if key}
    check_join(path, "films", keys, films.keys(), f"folder {images}")
    labels = _labels(folder, files, table)
    table = _those_with_films_first(table, films, images)
    n_studies = len(table.data["study"].unique())
    total = min(n_studies, config.max_studies or n_studies) + len(table.bad) + len(labels.bad)
    return Source(_studies(table, films, images, labels, config), total, LICENCE, splits_in(table.column("split")))


def recognise(place: Path) -> Recognised | None:
    """Returns what a folder of CheXpert Plus holds; None of another."""
    if not place.is_dir():
        return None
    files = list(files_below(place, DEPTH, most=_FEW))
    path = nearest_file(place, files, _TABLE)
    if path is None:
        return None
    table = open_table(path, ["path_to_image"], ["split"])
    paths = table.column("path_to_image")
    found = [f"{path.name}: {len(paths)} films with their reports"]
    if "split" in table.columns:
        splits = table.column("split")
        found += [f"split {name}: {splits.count(name)} films" for name in sorted(set(splits)) if name]
    missing: list[str] = []
    (found if (said := sampled(paths, place, files)).startswith("films") else missing).append(said)
    labels = [file for what in _LABELLED if (file := nearest_file(place, files, rf"{what}_fixed\.json")) is not None]
    found += (
        [f"CheXbert's labels: {labels[0].name} is read of {', '.join(file.name for file in labels)}"] if labels else []
    )
    missing += [] if labels else ["CheXbert's labels (chexbert_labels/impression_fixed.json)"]
    return Recognised("CheXpert Plus", {"kind": "chexpert-plus", "path": str(place)}, tuple(found), tuple(missing))


def _those_with_films_first(table: Table, films: Mapping[str, str], images: Path) -> Table:
    """Returns the rows in an order by which ``corpus.max_studies`` takes studies with films before those without."""
    studies = {name.rpartition("/")[0] for name in films}
    there = np.array([film in films for film in table.column("film")], dtype=bool)
    if not films:
        log.warning("%s: no film there: the reports are read without; set corpus.images to where films are", images)
    elif not there.all():
        log.warning("%s: %d of %d films aren't on disk; their studies are read without them",
                    table.path, (~there).sum(), len(there))  # fmt: skip
    order = np.argsort([study not in studies for study in table.column("study")], kind="stable")
    return Table(table.path, table.data.take(pa.array(order)), table.numbers[order], table.bad)


def _labels(folder: Path, files: Sequence[str], table: Table) -> _Labels:
    """Returns the labels of the preferred text that has some; none where no text has."""
    for what, column in _LABELLED.items():
        path = nearest_file(folder, files, rf"{what}_fixed\.json")
        if path is not None:
            labels = _read_labels(path, column, f"CheXbert of the {what}")
            check_join(path, "studies", labels.by_study.keys(), set(table.column("study")), str(table.path))
            return labels
    log.warning("%s: no impression_fixed.json, report_fixed.json or findings_fixed.json: no labels are read", folder)
    return _Labels()


def _read_labels(path: Path, column: str, origin: str) -> _Labels:
    """Returns the labels of a file with JSON a line.

    Raises:
        InputError: it is cut off or damaged, or none of its lines is a film's labels.
    """
    labels = _Labels(column)
    alike: dict[tuple[Given, ...], tuple[Given, ...]] = {}
    try:
        with opened_uncompressed(path) as stream:
            for number, line in enumerate(io.TextIOWrapper(stream, "utf-8"), start=1):
                try:
                    study, given = _line_of_labels(line, origin)
                    if labels.by_study.setdefault(study, alike.setdefault(given, given)) != given:
                        raise ValueError(f"other findings of {study} than in a line before")
                except ValueError as error:
                    labels.bad.append(BadRow(str(path), number, str(error)))
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise InputError(f"{path}: cut off or damaged ({' '.join(str(error).split())[:200]})") from error
    if not labels.by_study:
        why = f"; {labels.bad[0].reason}" if labels.bad else ""
        raise InputError(f"{path}: no line is the labels of a film (JSON with path_to_image is expected{why})")
    return labels


def _line_of_labels(line: str, origin: str) -> tuple[str, tuple[Given, ...]]:
    """Returns a line's study and findings.

    Raises:
        ValueError: it isn't JSON, names no film or lacks a finding.
    """
    try:
        said = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from error
    film = film_key(str(said.get("path_to_image", ""))) if isinstance(said, dict) else None
    if film is None:
        raise ValueError("no film's path in 'path_to_image'")
    absent = [name for name in LABELS if name not in said]
    if absent:
        raise ValueError(f"nothing under {absent[0]!r}")
    labels = [labelled(name, "" if said[name] is None else str(said[name]), origin) for name in LABELS]
    return film.rpartition("/")[0], tuple(label for label in labels if label is not None)


def _studies(
    table: Table, films: Mapping[str, str], images: Path, labels: _Labels, config: CorpusConfig
) -> Iterator[Study | BadRow]:
    yield from (*table.bad, *labels.bad)
    for rows in islice(table.groups("study"), config.max_studies):
        kept: list[Row] = []
        for number, row in rows:
            problem = _problem(row, kept)
            if problem is None:
                kept.append((number, row))
            else:
                yield BadRow(str(table.path), number, problem)
        if kept:
            yield _study(kept, films, images, labels, config, table.path)


def _problem(row: Mapping[str, str], kept: Sequence[Row]) -> str | None:
    """Returns what is wrong with a row beside those that are kept of its study."""
    if not row["film"]:
        return f"path {row['path_to_image']!r} is no film's (patientNNNNN/studyN/viewN_frontal.jpg is expected)"
    if not row["deid_patient_id"]:
        return "no patient in column 'deid_patient_id'"
    for number, other in kept:
        if other["film"] == row["film"]:
            return f"the film of row {number} again"
        for what, columns in _ONE_A_STUDY.items():
            if any(row[name] != other[name] for name in columns):
                return f"another {what} than row {number}, which is of the same study"
    return None


def _study(
    rows: Sequence[Row], films: Mapping[str, str], images: Path, labels: _Labels, config: CorpusConfig, path: Path
) -> Study | BadRow:
    number, first = rows[0]
    findings, impression, left_out = _text(first)
    given = labels.of(first)
    if not (findings or impression or given):
        return BadRow(str(path), number, "no report, and no findings are given")
    views = (
        file_view(images, films[row["film"]], config, projection=projection_said(row["frontal_lateral"], row["ap_pa"]))
        for _, row in rows
        if row["film"] in films
    )
    return Study(
        first["study"].replace("/", "-"),
        first["deid_patient_id"],
        findings,
        impression,
        tuple(views),
        given,
        sex=sex_of(first["sex"]),
        age=age_said(first["age"]),
        race=first["race"] if first["race"].lower() not in {"", "unknown"} else None,
        split=split_named(first["split"]),
        left_out=left_out,
    )


def _text(row: Mapping[str, str]) -> tuple[str, str, tuple[LeftOut, ...]]:
    """Returns findings and impression as the archive parted them; of a report that it didn't, as it is read here."""
    if row["section_findings"] or row["section_impression"]:
        return row["section_findings"], row["section_impression"], ()
    return read_sections(row["report"])
