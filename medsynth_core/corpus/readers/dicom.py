"""Reader of a folder tree of DICOM files, as a hospital's archive or a viewer's disc has them.

Files (PS3.10 of the standard's 2024 edition) may have any name, with or without an extension, and lie in any folders;
``corpus.path`` may be a DICOMDIR (PS3.3 F.3), whose files are read alone. What begins otherwise than DICOM is left out.
Films of one Study Instance UID are a study, studies of one Patient ID are a patient's. Text is that of the structured
reports (PS3.3 A.35) of the same study, or of the table ``corpus.reports``; without either, studies have none.

Of a file, only its pixels, sex, age, race, projection, manufacturer and pixel spacing are read into the corpus; ids are
replaced by ``dicom.pseudonym``. No name, date, id or path is written down or logged: what can't be read is named by
its number among the files in the order of their paths (``find . -type f -not -path '*/.*' | LC_ALL=C sort``), and by
its path in the error that stops a run alone. Films whose header says that the picture itself names the patient are
refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import joblib

from medsynth_core.cores import processes_for
from medsynth_core.corpus.dicom import (
    OTHER_MODALITIES,
    RADIOGRAPHS,
    UNDECODED,
    Header,
    files_of,
    load_dicom,
    pseudonym,
    read_header,
    read_report,
)
from medsynth_core.corpus.images import begins_as_dicom
from medsynth_core.corpus.labels import split_named
from medsynth_core.corpus.places import opened_in_parts, place_of, version_of, walk
from medsynth_core.corpus.records import BadRow, Given, Pixels, Recognised, Source, Study, View
from medsynth_core.corpus.rows import check_text, given_of
from medsynth_core.corpus.sections import LeftOut, Sections, read_sections
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import projection_of
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "as those say who hold the DICOM files"

_DIRECTORY = "DICOMDIR"
_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
_ELSEWHERE = frozenset(
    [
        "ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR",
        "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEEL", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE",
        "MANDIBLE", "NECK", "PELVIS", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "THUMB", "TOE", "TSPINE",
        "WRIST",
    ]
)  # fmt: skip
"""Parts of the body (PS3.16 Annex L) whose films are none of a chest."""
_POSITIONS = frozenset({"RLD", "LLD", "RLO", "LLO", "RPO", "LPO", "RAO", "LAO", "OBL", "OBLIQUE", "TAN", "AX"})
"""Terms for a view that may be written down though they are no projection that is known."""
_NAMES = frozenset({"names and dates", "signatures"})
"""What is left out of a report whose text isn't kept."""
_SILENT = Sections("", "")
_FILES_A_BATCH = 256
_FILES_A_PROCESS = 4000
_LOOKED_AT = 200
"""Files by which a folder is known."""
_SEVERAL = 20
"""Studies of which a hospital has more than one patient's."""


@dataclass(frozen=True)
class _File:
    """A film or a report, and its number among all files."""

    number: int
    header: Header


@dataclass
class _Found:
    """What is in a tree.

    Attributes:
        films, reports: by study.
        bad: files that can't be read.
        left_out: counts of the rest, by what they are.
    """

    films: dict[str, list[_File]] = field(default_factory=dict)
    reports: dict[str, list[_File]] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Said:
    """What is said of a study beside its films."""

    sections: Sections = _SILENT
    given: tuple[Given, ...] = ()
    split: str | None = None
    problem: str | None = None


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of a tree; their headers are read by all cores.

    Raises:
        InputError: the folder, the table of reports or one of its columns is missing, no file is a radiograph, or the
            table is of other studies.
    """
    place = place_of(config.path)
    paths = _paths(place)
    log.info("%s: reading the headers of %d files", place, len(paths))
    table = _Reports(config) if config.reports else None
    tree = _found(place, paths)
    if not tree.films:
        raise InputError(f"{place}: none of {len(paths)} files is a radiograph{_listed(tree)}")
    _tell(place, tree, len(paths))
    if table is not None:
        table.check(place, list(tree.films))
    bad = [*tree.bad, *(table.bad if table else ())]
    studies = list(dict.fromkeys(chain(tree.films, () if table else tree.reports)))[: config.max_studies]
    return Source(chain(bad, _studies(tree, studies, table, config)), len(studies) + len(bad), LICENCE)


def recognise(place: Path) -> Recognised | None:
    """Returns what a folder or a DICOMDIR is, by its first files."""
    if place.is_file():
        return Recognised("a DICOMDIR", _settings(place)) if place.name.upper() == _DIRECTORY else None
    if not place.is_dir():
        return None
    looked_at = list(islice(_walk(place), _LOOKED_AT))
    headers = [each for each in _read_headers(looked_at) if isinstance(each, Header)]
    films = [each for each in headers if _no_film(each) is None]
    if not films:
        return None
    reports = sum(each.is_report for each in headers)
    found = (
        f"{len(films)} of the first {len(looked_at)} files are radiographs",
        f"of {len({each.study for each in films})} studies and {len({each.patient for each in films})} patients",
        *((f"{reports} structured reports",) if reports else ()),
    )
    missing = () if reports else ("no structured reports; corpus.reports may be a table of reports or findings",)
    return Recognised("a tree of DICOM files", _settings(place), found, missing, rank=5)


def _settings(place: Path) -> dict[str, object]:
    return {"kind": "dicom", "path": str(place)}


def _paths(place: Path) -> list[Path]:
    """Returns the files, by their paths; a DICOMDIR's in its own order."""
    if place.is_file():
        if place.name.upper() != _DIRECTORY:
            raise InputError(
                f"{place}: corpus.path is the folder of DICOM files or a DICOMDIR; a table of reports is corpus.reports"
            )
        return files_of(place)
    if not place.is_dir():
        raise InputError(f"{place}: corpus.path is neither a folder nor a DICOMDIR")
    return sorted(_walk(place), key=str)


def _walk(place: Path) -> Iterator[Path]:
    """Yields the files below a folder but for hidden ones and DICOMDIRs."""
    for folder, names in walk(place):
        yield from (folder / name for name in names if name.upper() != _DIRECTORY)


def _found(place: Path, paths: list[Path]) -> _Found:
    """Returns what a tree has, in order."""
    tree = _Found()
    owners: dict[str, _File] = {}
    for number, (path, read) in enumerate(zip(paths, _all_headers(paths), strict=True), start=1):
        if read is None:
            tree.left_out["no DICOM"] += 1
            continue
        if isinstance(read, Header) and not read.is_report and (other := _no_film(read)) is not None:
            tree.left_out[other] += 1
            continue
        problem = read if isinstance(read, str) else _problem(read, owners)
        if problem:
            tree.bad.append(BadRow(str(place), number, problem, str(path)))
        elif isinstance(read, Header):
            file = _File(number, read)
            owners.setdefault(read.study, file)
            (tree.reports if read.is_report else tree.films).setdefault(read.study, []).append(file)
    return tree


def _problem(header: Header, owners: dict[str, _File]) -> str | None:
    first = owners.get(header.study)
    if first is not None and first.header.patient != header.patient:
        return f"of another patient than file {first.number}, which is of the same study"
    if header.names_patient and not header.is_report:
        return "its header says that the picture names the patient (Burned In Annotation is YES)"
    return None


def _no_film(header: Header) -> str | None:
    """Returns what a file is that is no film of a chest; None of one that may be."""
    if not header.has_picture:
        return "without a picture"
    if header.modality not in RADIOGRAPHS:
        return f"of modality {header.modality}" if header.modality in OTHER_MODALITIES else "of another modality"
    return "of another part of the body" if header.body_part in _ELSEWHERE else None


def _all_headers(paths: list[Path]) -> Iterator[Header | str | None]:
    parallel = joblib.Parallel(n_jobs=processes_for(len(paths), _FILES_A_PROCESS), return_as="generator")
    batches = (paths[start : start + _FILES_A_BATCH] for start in range(0, len(paths), _FILES_A_BATCH))
    return chain.from_iterable(parallel(joblib.delayed(_read_headers)(batch) for batch in batches))


def _read_headers(paths: Iterable[Path]) -> list[Header | str | None]:
    return [_read_one(path) for path in paths]


def _read_one(path: Path) -> Header | str | None:
    """Returns a file's header, why it can't be read, or None where it is no DICOM file and doesn't seem to be."""
    suffix = path.suffix.lower()
    is_one_by_name = suffix in _SUFFIXES
    try:
        if not version_of(path)[0] and (is_one_by_name or not suffix or suffix[1:].isdigit()):
            return "the file is empty"
        if not is_one_by_name:
            with opened_in_parts(path) as stream:
                if not begins_as_dicom(stream):
                    return None
        return read_header(path, needs_ids=True)
    except FileNotFoundError:
        return "a link to a file that isn't there" if path.is_symlink() else "the file isn't there"
    except OSError as error:
        return f"can't be opened ({error.strerror})"
    except InputError as error:
        return str(error)


def _listed(tree: _Found) -> str:
    counts = [f"{n} {what}" for what, n in tree.left_out.most_common()]
    counts += [f"{len(tree.bad)} unreadable, e.g. {tree.bad[0].named}: {tree.bad[0].reason}"] if tree.bad else []
    return f" ({'; '.join(counts)})" if counts else ""


def _tell(place: Path, tree: _Found, n: int) -> None:
    if tree.left_out:
        left_out = ", ".join(f"{count} {what}" for what, count in tree.left_out.most_common())
        log.warning("%s: %d of %d files are left out: %s", place, tree.left_out.total(), n, left_out)
    patients = {file.header.patient for files in tree.films.values() for file in files}
    if len(tree.films) >= _SEVERAL and len(patients) == 1 and "" not in patients:
        log.warning(
            "%s: all %d studies have one Patient ID, so they all fall into one split; where it was made anonymous, "
            "give each patient an id of its own, or none",
            place, len(tree.films),
        )  # fmt: skip


def _studies(
    tree: _Found, studies: list[str], table: _Reports | None, config: CorpusConfig
) -> Iterator[Study | BadRow]:
    for study in studies:
        said = table.of(study) if table else _reported(tree.reports.get(study, ()))
        if said.problem:
            yield BadRow(f"study {study}", None, said.problem)
        else:
            yield _study(study, tree.films.get(study, []), tree.reports.get(study, []), said, config)


def _study(study: str, films: list[_File], reports: list[_File], said: _Said, config: CorpusConfig) -> Study:
    headers = [file.header for file in (*films, *reports)]
    sections = said.sections
    return Study(
        study,
        headers[0].patient or study,
        sections.findings,
        sections.impression,
        tuple(_view(file, config) for file in films),
        said.given,
        sex=next((each.sex for each in headers if each.sex), None),
        age=next((each.age for each in headers if each.age is not None), None),
        race=next((each.race for each in headers if each.race), None),
        split=said.split,
        left_out=tuple(LeftOut(part.reason, "") if part.reason in _NAMES else part for part in sections.left_out),
    )


def _view(file: _File, config: CorpusConfig) -> View:
    header = file.header
    known = projection_of(header.projection)
    word = header.projection.upper()
    called = "" if known != "unknown" or not word else word if word in _POSITIONS else "another word"
    return View(
        view_id=header.instance,
        projection=known,
        source=header.instance,
        load=partial(_load, header.path, file.number, config.max_image_pixels, config.image_size),
        called=called,
        manufacturer=header.manufacturer,
        pixel_spacing_mm=header.pixel_spacing_mm,
        named=str(header.path),
        files=(header.path,),
    )


def _load(path: Path, number: int, max_pixels: int, size: int) -> Pixels:
    """Returns a film; what is wrong with it is told without its path or a decoder's words, which may name somebody."""
    try:
        if not path.is_file():
            raise InputError("the file isn't there any more")
        return load_dicom(path, max_pixels, size)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"file {number}: {UNDECODED if UNDECODED in reason else reason}") from None


def _reported(files: Iterable[_File]) -> _Said:
    """Returns what a study's structured reports say, each text once."""
    texts: dict[str, None] = {}
    for file in files:
        try:
            texts[read_report(file.header.path)] = None
        except InputError as error:
            return _Said(problem=f"file {file.number}: {error}")
    return _Said(read_sections("\n\n".join(texts)))


class _Reports:
    """The table of reports.

    Attributes:
        bad: rows that can't be read.
    """

    def __init__(self, config: CorpusConfig) -> None:
        columns = config.columns
        path = place_of(config.reports)
        if not columns.study:
            raise InputError(f"{path}: set corpus.columns.study to its column of Study Instance UIDs")
        if not (columns.text or columns.findings or columns.labels):
            raise InputError(f"{path}: set corpus.columns.text, corpus.columns.findings or corpus.columns.labels")
        named = [columns.study, columns.text, columns.impression, columns.findings, *columns.labels, columns.split]
        self._table: Table = open_table(path, [name for name in named if name])
        if columns.text:
            check_text(self._table, columns.text)
        self._config, self._path = config, path
        self.bad = self._table.bad
        self._rows: dict[str, list[int]] = {}
        for index, study in enumerate(self._table.column(columns.study)):
            self._rows.setdefault(pseudonym(study), []).append(index)

    def check(self, place: Path, studies: list[str]) -> None:
        """Tells how many studies have no report, and how many reports no study.

        Raises:
            InputError: none of the studies is in the table.
        """
        joined = sum(study in self._rows for study in studies)
        column = self._config.columns.study
        if not joined:
            raise InputError(
                f"{self._path}: none of the {len(studies)} Study Instance UIDs of {place} is in column {column!r}, "
                f"which may hold accession or other numbers; set corpus.columns.study to the column that has them"
            )
        if joined < max(len(studies), len(self._rows)):
            log.warning(
                "%s: %d of %d studies have no row in it, %d of its %d studies have no film",
                self._path, len(studies) - joined, len(studies), len(self._rows) - joined, len(self._rows),
            )  # fmt: skip

    def of(self, study: str) -> _Said:
        """Returns what the table says of a study."""
        columns = self._config.columns
        rows = [self._table.row(index) for index in self._rows.get(study, ())]
        if not rows:
            return _Said()
        where = "of corpus.reports"
        numbers = [int(self._table.numbers[index]) for index in self._rows[study]]
        if any(row != rows[0] for row in rows):
            return _Said(problem=f"its rows {', '.join(map(str, numbers))} {where} differ")
        given, unread = given_of(rows[0], self._config)
        if unread:
            return _Said(problem=f"row {numbers[0]} {where}: a column of corpus.columns.labels holds no 1, 0 or -1")
        sections = read_sections(rows[0][columns.text]) if columns.text else _SILENT
        if columns.impression:
            sections = sections._replace(impression=rows[0][columns.impression].strip())
        return _Said(sections, given, split_named(rows[0][columns.split]) if columns.split else None)
