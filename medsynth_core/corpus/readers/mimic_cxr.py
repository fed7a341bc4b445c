"""Reader of MIMIC-CXR 2.x (Johnson et al. 2019, Scientific Data 6:317) and MIMIC-CXR-JPG 2.x (arXiv:1901.07042).

Films are ``files/p10/p10000032/s50414267/<dicom_id>.jpg``, or ``.dcm``; reports ``files/p10/p10000032/s50414267.txt``,
in folders or in ``mimic-cxr-reports.zip``, or parted in ``mimic_cxr_sectioned.csv`` (MIT-LCP/mimic-cxr: study,
impression, findings, last_paragraph, comparison). Beside them MIMIC-CXR-JPG has ``mimic-cxr-2.0.0-metadata.csv`` (a
film's view and date), ``-split.csv`` (train, validate, test), ``-chexpert.csv`` and ``-negbio.csv`` (two labellers'
findings of the reports: 1.0, 0.0, -1.0, empty) and ``mimic-cxr-2.1.0-test-set-labeled.csv`` (a radiologist's). Sex and
age are MIMIC-IV's: ``patients.csv`` (gender, anchor_age in anchor_year), in the folder or in a mimic-iv beside it.

Films or reports are needed, and with films alone somebody's findings; everything else may be absent. All of it is
found wherever it is below the folder, as ``wget -r`` and the archive's own tree put it; tables may be packed (.gz).
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medsynth_core.corpus.archives import archive_folder, check_join, files_below, nearest_file
from medsynth_core.corpus.dicom import read_header
from medsynth_core.corpus.files import image_place
from medsynth_core.corpus.labels import age_of, labelled, sex_of, split_named
from medsynth_core.corpus.places import opened_in_parts
from medsynth_core.corpus.readers.chexpert import LABELS
from medsynth_core.corpus.records import BadRow, Given, Recognised, Source, Study, View
from medsynth_core.corpus.sections import LeftOut, read_sections
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "MIMIC-CXR: PhysioNet Credentialed Health Data License 1.5.0, not to be passed on"
_DEPTH = 8
_FILM = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})/([^/]+)\.(jpe?g|png|dcm|dicom)$", re.IGNORECASE)
_REPORT = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})\.txt$", re.IGNORECASE)
_ID = re.compile(r"[ps]?(\d+)(?:\.0)?")
_VERSIONED = r"mimic-cxr-2\.\d+\.\d+-"
_ZIP = r"mimic-cxr-reports.*\.zip"
_SECTIONED = r"mimic_cxr_sectioned\.csv"
_PATIENTS = r"patients\.csv"
_NAMES = (*LABELS, "Airspace Opacity")
"""Findings; the radiologist's table has its own word for Lung Opacity."""
_LABELLERS = {
    "chexpert": ("CheXpert labeller", LABELS),
    "negbio": ("NegBio labeller", LABELS),
    "test-set-labeled": ("radiologist", ()),
}
"""Tables of findings: who says so, and the findings that must be there."""
_VIEW_COLUMNS = ("ViewPosition", "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning")
_FEW = 6


@dataclass
class _Found:
    """What is on disk of a study.

    Attributes:
        films: by dicom id, relative to the folder of the films.
        report: relative to the archive's folder, or in the zip.
    """

    patient: str
    films: dict[str, str] = field(default_factory=dict)
    report: str = ""
    zipped: bool = False


@dataclass(frozen=True)
class _Joined:
    """A table and where in it each id is."""

    table: Table
    rows: Mapping[str, int]

    def of(self, name: str) -> dict[str, str]:
        """Returns the cells of an id's row; none where it has none."""
        return self.table.row(self.rows[name]) if name in self.rows else {}

    def number(self, name: str) -> int:
        """Returns the row of the file."""
        return int(self.table.numbers[self.rows[name]])


@dataclass
class _Archive:
    """An opened archive; what is absent is empty.

    Attributes:
        films: metadata by dicom id.
        dates: of films by study, as YYYYMMDD.
        splits: by patient.
        labels: by labeller, by study.
        people: patients by their number.
        bad: rows of tables that can't be joined.
    """

    folder: Path
    images: Path
    zip: zipfile.ZipFile | None = None
    sectioned: _Joined | None = None
    films: _Joined | None = None
    dates: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    labels: dict[str, _Joined] = field(default_factory=dict)
    people: _Joined | None = None
    bad: list[BadRow] = field(default_factory=list)


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path``, those with films on disk first.

    A study without films has its report alone, and one that has neither isn't there.

    Raises:
        InputError: there are no films and no reports, or films of which nothing is said; a table lacks a column, or is
            of another archive.
    """
    folder = archive_folder(config.path, "mimic-cxr")
    files = list(files_below(folder, _DEPTH))
    archive = _Archive(folder, image_place(folder, config.images))
    archive.zip = _opened_zip(folder, files)
    found = _on_disk(archive, files)
    _open_tables(archive, files, found)
    if not found:
        raise InputError(
            f"{folder}: no film (files/p10/p10000032/s50414267/*.jpg or .dcm) and no report "
            f"(files/p10/p10000032/s50414267.txt, mimic-cxr-reports.zip or mimic_cxr_sectioned.csv)"
        )
    if not (archive.labels or archive.sectioned or any(study.report for study in found.values())):
        raise InputError(
            f"{folder}: films of which nothing is said; put mimic-cxr-reports.zip or mimic-cxr-2.0.0-chexpert.csv.gz "
            f"beside them, or set corpus.path to a folder above both"
        )
    wanted = sorted(found, key=lambda name: (not found[name].films, found[name].patient, name))[: config.max_studies]
    total = len(wanted) + len(archive.bad)
    return Source(
        _studies(archive, found, wanted, config), total, LICENCE, frozenset(filter(None, archive.splits.values()))
    )


def recognise(place: Path) -> Recognised | None:
    """Returns what a folder of MIMIC-CXR holds; None of another."""
    if not place.is_dir():
        return None
    files = list(files_below(place, _DEPTH, most=_FEW))
    films = [name for name in files if _FILM.search(name)]
    tables = {what: _newest(place, files, what) for what in ("metadata", "split", *_LABELLERS)}
    texts = [nearest_file(place, files, pattern) for pattern in (_ZIP, _SECTIONED)]
    reports = [path.name for path in texts if path is not None]
    reports += ["files"] if any(_REPORT.search(name) for name in files) else []
    if not (any(tables.values()) or reports or films):
        return None
    found = [_in_words(path) for path in tables.values() if path is not None]
    found += [f"reports: {', '.join(reports)}"] if reports else []
    kinds = sorted({name.rpartition(".")[2].lower() for name in films})
    found += [f"films: {len(films)} in the folders that were looked into ({', '.join(kinds)})"] if films else []
    missing = [f"no {what} table" for what, path in tables.items() if path is None]
    missing += [] if reports else ["no reports (mimic-cxr-reports.zip)"]
    missing += [] if films else ["no films (files/p10/p10000032/s50414267/*.jpg)"]
    people = _patients_table(place, files)
    (found if people else missing).append(f"sex and age: {people or 'no patients.csv.gz of MIMIC-IV'}")
    return Recognised("MIMIC-CXR 2.x", {"kind": "mimic-cxr", "path": str(place)}, tuple(found), tuple(missing))


def _in_words(path: Path) -> str:
    """Returns a table's name and rows, and how many are in each split."""
    table = open_table(path, [], ["study_id", "split"])
    words = f"{path.name}: {len(table)} rows"
    if "split" in table.columns:
        splits = table.column("split")
        words += "".join(f", {splits.count(name)} {name}" for name in sorted(set(splits)))
    return words


def _id(cell: str) -> str:
    """Returns the number of a study or a patient, as folders have it; "" where there is none."""
    found = _ID.fullmatch(cell.strip())
    return found[1] if found else ""


def _opened_zip(folder: Path, files: Iterable[str]) -> zipfile.ZipFile | None:
    path = nearest_file(folder, files, _ZIP)
    if path is None:
        return None
    try:
        return zipfile.ZipFile(opened_in_parts(path))
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError(f"{path}: cut off or damaged ({error}); download it again") from error


def _on_disk(archive: _Archive, files: Iterable[str]) -> dict[str, _Found]:
    """Returns the studies that have a report or a film; a folder is listed once."""
    found: dict[str, _Found] = {}
    here = archive.images == archive.folder
    for name in files:
        _add_report(archive, found, name, zipped=False)
        if here:
            _add_film(archive, found, name)
    for name in () if here else files_below(archive.images, _DEPTH):
        _add_film(archive, found, name)
    for name in archive.zip.namelist() if archive.zip is not None else ():
        if not name.startswith("__MACOSX"):
            _add_report(archive, found, name, zipped=True)
    return found


def _study_of(archive: _Archive, found: dict[str, _Found], patient: str, study: str, name: str) -> _Found | None:
    """Returns a study by its number, new where it is; None, and a bad row, where it is another patient's."""
    known = found.setdefault(study, _Found(patient))
    if known.patient == patient:
        return known
    archive.bad.append(BadRow(name, None, f"study {study} is patient {known.patient}'s, too"))
    return None


def _add_report(archive: _Archive, found: dict[str, _Found], name: str, zipped: bool) -> None:
    named = _REPORT.search(name)
    study = _study_of(archive, found, named[1], named[2], name) if named else None
    if study is not None and not study.report:
        study.report, study.zipped = name, zipped


def _add_film(archive: _Archive, found: dict[str, _Found], name: str) -> None:
    """Adds a film; of one that is there as JPEG and as DICOM the JPEG."""
    named = _FILM.search(name)
    study = _study_of(archive, found, named[1], named[2], name) if named else None
    if named is None or study is None:
        return
    if named[3] not in study.films or _is_dicom(study.films[named[3]]):
        study.films[named[3]] = name


def _is_dicom(name: str) -> bool:
    return name.lower().endswith((".dcm", ".dicom"))


def _open_tables(archive: _Archive, files: list[str], found: dict[str, _Found]) -> None:
    """Opens the tables that are there, joins them to what is on disk, and adds the studies of the parted reports."""
    metadata = _opened(
        archive.folder, files, "metadata", "dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate",
        optional=_VIEW_COLUMNS,
    )  # fmt: skip
    split = _opened(archive.folder, files, "split", "study_id", "subject_id", "split")
    owners = _owners(metadata) | _owners(split) | _open_labels(archive, files)
    _add_sectioned(archive, files, found, owners)
    if metadata is not None:
        _join_metadata(archive, metadata, found)
    if split is not None:
        _join_splits(archive, split, found)
    for what, joined in archive.labels.items():
        check = check_join if _LABELLERS[what][1] else _tell_of_none
        check(joined.table.path, "studies", joined.rows.keys(), found.keys(), f"folder {archive.folder}")
    path = _patients_table(archive.folder, files)
    if path is not None:
        people = open_table(path, ["subject_id", "gender", "anchor_age", "anchor_year"])
        archive.people = _joined(archive, people, "subject_id", _id)
        patients = {study.patient for study in found.values()}
        _tell_of_none(path, "patients", archive.people.rows.keys(), patients, f"folder {archive.folder}")


def _opened(folder: Path, files: list[str], what: str, *columns: str, optional: Iterable[str] = ()) -> Table | None:
    path = _newest(folder, files, what)
    return None if path is None else open_table(path, columns, optional)


def _open_labels(archive: _Archive, files: list[str]) -> dict[str, str]:
    """Opens the tables of findings; returns the patients of the studies in them."""
    owners: dict[str, str] = {}
    for what, (_, columns) in _LABELLERS.items():
        table = _opened(archive.folder, files, what, "study_id", *columns, optional=("subject_id", *_NAMES))
        if table is None:
            continue
        if not set(_NAMES) & set(table.columns):
            raise InputError(f"{table.path}: no finding is a column; one or more of {', '.join(_NAMES)} are expected")
        archive.labels[what] = _joined(archive, table, "study_id", _id)
        owners |= _owners(table)
    return owners


def _tell_of_none(path: Path, what: str, ids: Collection[str], others: Collection[str], where: str) -> None:
    """Warns where ``check_join`` raises: of tables that aren't of all patients, a sample may be of others."""
    try:
        check_join(path, what, ids, others, where)
    except InputError as error:
        log.warning("%s; it isn't used", error)


def _newest(folder: Path, files: list[str], what: str) -> Path | None:
    """Returns a table of the latest version that is there."""
    versions = {named[0] for name in files if (named := re.search(_VERSIONED + what, name))}
    newest = max(versions, key=lambda name: [int(part) for part in re.findall(r"\d+", name)], default=None)
    return None if newest is None else nearest_file(folder, files, rf"{re.escape(newest)}\.csv")


def _patients_table(folder: Path, files: Collection[str]) -> Path | None:
    """Returns MIMIC-IV's table of patients: below the folder, else in a folder of that name beside it or above."""
    path = nearest_file(folder, files, _PATIENTS)
    for place in (folder.resolve().parent, folder.resolve().parent.parent):
        for beside in sorted(place.glob("[mM][iI][mM][iI][cC]*[iI][vV]*")) if path is None else ():
            if re.fullmatch(r"mimic[-_]?iv(?:[-_]?\d[\d.]*)?", beside.name.lower()) and beside.is_dir():
                path = path or nearest_file(beside, files_below(beside, 2), _PATIENTS)
    return path


def _owners(table: Table | None) -> dict[str, str]:
    """Returns the patients of studies, as a table has them."""
    if table is None or "subject_id" not in table.columns:
        return {}
    pairs = zip(table.column("study_id"), table.column("subject_id"), strict=True)
    return {_id(study): _id(patient) for study, patient in pairs if study and patient}


def _joined(archive: _Archive, table: Table, column: str, plain: Callable[[str], str] = str) -> _Joined:
    """Returns a table by its ids; a row without one, or with one that was there before, is a bad one."""
    archive.bad += table.bad
    rows: dict[str, int] = {}
    for index, cell in enumerate(table.column(column)):
        name = plain(cell)
        if not name or name in rows:
            before = f"{name} again, which row {table.numbers[rows[name]]} has" if name else f"{cell!r} is no id"
            archive.bad.append(BadRow(str(table.path), int(table.numbers[index]), f"{column} {before}"))
        else:
            rows[name] = index
    return _Joined(table, rows)


def _join_metadata(archive: _Archive, metadata: Table, found: Mapping[str, _Found]) -> None:
    archive.films = _joined(archive, metadata, "dicom_id")
    dates = metadata.whole("StudyDate").column("StudyDate")
    archive.dates = dict(zip(map(_id, metadata.column("study_id")), dates, strict=True))
    there = {film for study in found.values() for film in study.films}
    check_join(metadata.path, "dicom ids", archive.films.rows.keys(), there, f"folder {archive.images}")
    absent = sum(film not in there for film in archive.films.rows)
    if absent:
        log.warning("%s: %d of %d films aren't on disk and are left out", metadata.path, absent, len(metadata))


def _join_splits(archive: _Archive, table: Table, found: Mapping[str, _Found]) -> None:
    archive.bad += table.bad
    first: dict[str, int] = {}
    for number, row in table.rows():
        patient, split = _id(row["subject_id"]), split_named(row["split"])
        problem = ""
        if not patient or split is None:
            problem = f"patient {row['subject_id']!r} in split {row['split']!r}; train, validate or test is expected"
        elif archive.splits.setdefault(patient, split) != split:
            problem = f"another split than row {first[patient]}, which is of the same patient"
        if problem:
            archive.bad.append(BadRow(str(table.path), number, problem))
        first.setdefault(patient, number)
    patients = {study.patient for study in found.values()}
    check_join(table.path, "patients", archive.splits.keys(), patients, f"folder {archive.folder}")


def _add_sectioned(
    archive: _Archive, files: Collection[str], found: dict[str, _Found], owners: Mapping[str, str]
) -> None:
    """Adds the studies of the table of parted reports, whose patients the other tables or the folders know."""
    path = nearest_file(archive.folder, files, _SECTIONED)
    if path is None:
        return
    columns = ["study", "impression", "findings", "last_paragraph"]
    archive.sectioned = _joined(archive, open_table(path, columns), "study", _id)
    check_join(path, "studies", archive.sectioned.rows.keys(), found.keys() | owners.keys(), f"folder {archive.folder}")
    nobodys = []
    for study in archive.sectioned.rows:
        if study not in found and owners.get(study):
            found[study] = _Found(owners[study])
        elif study not in found:
            nobodys.append(study)
    if not found:
        raise InputError(
            f"{path}: whose its studies are isn't known; put mimic-cxr-2.0.0-split.csv.gz or -metadata.csv.gz beside it"
        )
    for study in nobodys:
        number = archive.sectioned.number(study)
        archive.bad.append(BadRow(str(path), number, f"study {study} is in no other table and no folder: whose is it?"))


def _studies(
    archive: _Archive, found: Mapping[str, _Found], wanted: Iterable[str], config: CorpusConfig
) -> Iterator[Study | BadRow]:
    yield from archive.bad
    for study in wanted:
        yield from _study(archive, study, found[study], config)


def _study(archive: _Archive, study: str, found: _Found, config: CorpusConfig) -> Iterator[Study | BadRow]:
    """Yields a study, and what can't be read of it."""
    bad: list[BadRow] = []
    findings, impression, left_out = _text(archive, study, found, bad)
    given = tuple(label for what in archive.labels for label in _given(archive, what, study, bad))
    views = [_view(archive, study, film, found.films[film], config, bad) for film in sorted(found.films)]
    yield from bad
    if not (findings or impression or given):
        if not any(each.source == found.report for each in bad):
            only = " and ".join({part.reason: 0 for part in left_out})
            where = found.report or next(iter(found.films.values()), f"study {study}")
            yield BadRow(where, None, f"no report{f' but {only}' if only else ''}, and no findings are given")
        return
    sex, age = _person(archive, study, found.patient)
    yield Study(
        f"s{study}",
        f"p{found.patient}",
        findings,
        impression,
        tuple(view for view in views if view is not None),
        given,
        sex=sex,
        age=age,
        split=archive.splits.get(found.patient),
        left_out=left_out,
    )


def _text(archive: _Archive, study: str, found: _Found, bad: list[BadRow]) -> tuple[str, str, tuple[LeftOut, ...]]:
    """Returns findings and impression of the whole report, else of the parted one, else of its last paragraph."""
    if found.report:
        try:
            text = _report(archive, found)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            bad.append(BadRow(found.report, None, f"report that can't be read ({' '.join(str(error).split())})"))
            return "", "", ()
        if not text.strip():
            bad.append(BadRow(found.report, None, "the report is empty"))
        return read_sections(text)
    row = archive.sectioned.of(study) if archive.sectioned is not None else {}
    findings, impression = row.get("findings", ""), row.get("impression", "")
    return (findings, impression, ()) if findings or impression else (row.get("last_paragraph", ""), "", ())


def _report(archive: _Archive, found: _Found) -> str:
    zipped = archive.zip if found.zipped else None
    data = (archive.folder / found.report).read_bytes() if zipped is None else zipped.read(found.report)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _given(archive: _Archive, what: str, study: str, bad: list[BadRow]) -> tuple[Given, ...]:
    """Returns what a labeller says of a study; nothing of a row that holds something else than labels."""
    labels, origin = archive.labels[what], _LABELLERS[what][0]
    cells = labels.of(study)
    try:
        said = [labelled(name, cells[name], origin) for name in _NAMES if name in cells]
    except ValueError as error:
        bad.append(BadRow(str(labels.table.path), labels.number(study), str(error)))
        return ()
    return tuple(label for label in said if label is not None)


def _view(archive: _Archive, study: str, film: str, name: str, config: CorpusConfig, bad: list[BadRow]) -> View | None:
    """Returns the view of a film; how it was taken is said by its metadata, else by its own DICOM header."""
    row = archive.films.of(film) if archive.films is not None else {}
    if row and archive.films is not None:
        if _id(row["study_id"]) == study:
            return file_view(archive.images, name, config, projection=_projection(row))
        reason = f"film {film} is study {row['study_id']}'s, but in the folder of study {study}"
        bad.append(BadRow(str(archive.films.table.path), archive.films.number(film), reason))
        return None
    if not _is_dicom(name):
        return file_view(archive.images, name, config)
    try:
        head = read_header(archive.images / name)
    except InputError:
        return file_view(archive.images, name, config)  # its loading tells what is wrong with it
    return file_view(
        archive.images,
        name,
        config,
        projection=head.projection,
        manufacturer=head.manufacturer,
        pixel_spacing_mm=head.pixel_spacing_mm,
    )


def _projection(row: Mapping[str, str]) -> str:
    """Returns a film's projection as one word: its view's, lying down where the patient's orientation says so."""
    said = row["ViewPosition"] or row.get("ViewCodeSequence_CodeMeaning", "")
    lying = row.get("PatientOrientationCodeSequence_CodeMeaning", "") == "Recumbent"
    return "AP supine" if lying and said in {"AP", "antero-posterior"} else said


def _person(archive: _Archive, study: str, patient: str) -> tuple[str | None, int | None]:
    """Returns sex and age at the study: that of the anchor's year, and the years from there."""
    row = archive.people.of(patient) if archive.people is not None else {}
    if not row:
        return None, None
    date = archive.dates.get(study, "")
    if not (re.fullmatch(r"\d{8}", date) and row["anchor_age"].isdecimal() and row["anchor_year"].isdecimal()):
        return sex_of(row["gender"]), None
    years = int(row["anchor_age"]) + int(date[:4]) - int(row["anchor_year"])
    return sex_of(row["gender"]), age_of(str(years))
