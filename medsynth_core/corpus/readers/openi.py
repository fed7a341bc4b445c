"""Reader of the Indiana University chest radiographs of Open-i, in both forms in which they are had.

As published by the National Library of Medicine (Demner-Fushman et al., J Am Med Inform Assoc 23, 2016; the release of
3,955 reports and 7,470 images): ``NLMCXR_reports.tgz``, which unpacks to ``ecgen-radiology/1.xml`` ..., an eCitation
each, read from the archive, too; beside it the images, unpacked from ``NLMCXR_png.tgz``
(``CXR1_1_IM-0001-3001.png``) or ``NLMCXR_dcm.tgz`` (``1/1_IM-0001-3001.dcm``), in any folders below.

As Kaggle has them ("Chest X-rays (Indiana University)", version 1): ``indiana_reports.csv``,
``indiana_projections.csv`` and ``images/images_normalized/1_IM-0001-4001.dcm.png``.

The XML doesn't say how a film was taken, but for captions that name one projection alone; where
``indiana_projections.csv`` lies beside it, that does. MeSH terms of the people who indexed the reports are given
findings; the automatic ones aren't read, nor are comparison and indication.
"""

from __future__ import annotations

import logging
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

from medsynth_core.corpus.files import image_folder
from medsynth_core.corpus.labels import listed
from medsynth_core.corpus.places import opened, place_of, walk
from medsynth_core.corpus.records import BadRow, Given, Recognised, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "Open-i Indiana University collection: CC BY-NC-ND 4.0"

_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_ARCHIVE, _FOLDER = "NLMCXR_reports.tgz", "ecgen-radiology"
_PACKED_IMAGES = ("NLMCXR_png.tgz", "NLMCXR_dcm.tgz")
_IMAGES = (".png", ".dcm", ".jpg", ".jpeg")
_INDEXERS = "MeSH by indexers"
_NOT_INDEXED = frozenset({"no indexing"})
_NAME_ON_DISK = re.compile(r"\d+_IM-.+$")
"""What an image's names have in common: CXR1_1_IM-0001-3001 is 1_IM-0001-3001 elsewhere."""
_WORDS = {
    "pa": "PA", "posteroanterior": "PA", "ap": "AP", "anteroposterior": "AP", "portable": "AP", "lateral": "lateral",
    "lat": "lateral", "frontal": "frontal",
}  # fmt: skip
_DEPTH = 3
"""Folders below ``corpus.path`` or ``corpus.images`` that images may lie in."""
_LARGEST_XML = 1 << 22
"""Bytes; reports have 4 to 30 thousand."""

_UNREADABLE = (InputError, OSError, ET.ParseError, ValueError, LookupError)

Read = Callable[[], bytes]


@dataclass(frozen=True)
class _Document:
    """An XML file: what it is called, and how its bytes are had."""

    name: str
    read: Read


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path``, a folder in either form, or ``NLMCXR_reports.tgz``; a uid is one
    patient's one study.

    Without an image folder all studies come without views: they still mine and prompt.

    Raises:
        InputError: a file or a column is missing, or the archive is damaged.
    """
    place = place_of(config.path)
    if not place.is_dir() and not (place.is_file() and place.name.endswith((".tgz", ".tar.gz"))):
        raise InputError(
            f"{place}: corpus.path is not a folder (kind openi wants the one of {_REPORTS}, of {_FOLDER}/ or of "
            f"{_ARCHIVE})"
        )
    if (place / _REPORTS).is_file():
        return _from_tables(place, config)
    documents = _documents(place)
    if not documents:
        raise InputError(f"{place}: none of {_REPORTS}, {_FOLDER}/1.xml and {_ARCHIVE} is there")
    return _from_xml(place, documents, config)


def recognise(place: Path) -> Recognised | None:
    """Returns which of the two forms a folder has."""
    settings: dict[str, object] = {"kind": "openi", "path": str(place)}
    if place.is_file():
        return Recognised("Open-i's reports as published", settings) if place.name == _ARCHIVE else None
    if (place / _REPORTS).is_file() and (place / _PROJECTIONS).is_file():
        has_images = any(each.is_dir() for each in _kaggle_folders(place)[:2])
        lacking = () if has_images else ("images_normalized/, without which reports have no images",)
        return Recognised("Open-i as Kaggle has it", settings, (_REPORTS, _PROJECTIONS), lacking)
    reports = _some_reports(place)
    if reports is None:
        return None
    images = _images(_beside(place), None)
    missing = [] if images else ["images; unpack NLMCXR_png.tgz beside the reports"]
    if not (place / _PROJECTIONS).is_file():
        missing.append(f"{_PROJECTIONS}, which says which images are lateral (Kaggle's copy has it)")
    return Recognised("Open-i as published", settings, (reports, f"{len(images)} images"), tuple(missing))


def _some_reports(place: Path) -> str | None:
    """Returns what a folder has of the reports as published, None where it has none."""
    for folder in (place / _FOLDER, place):
        numbered = list(folder.glob("[0-9]*.xml"))
        if numbered:
            return f"{len(numbered)} reports" if _begins_as_ours(numbered[0]) else None
    return _ARCHIVE if (place / _ARCHIVE).is_file() else None


def _begins_as_ours(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"<eCitation" in stream.read(2000)


# Kaggle's copy


def _kaggle_folders(folder: Path) -> list[Path]:
    return [folder / "images" / "images_normalized", folder / "images", folder]


def _from_tables(folder: Path, config: CorpusConfig) -> Source:
    reports = open_table(folder / _REPORTS, ["uid", "findings", "impression"], optional=["MeSH"]).whole("uid")
    projections = open_table(folder / _PROJECTIONS, ["uid", "filename", "projection"]).whole("uid")
    _check_uids(reports, projections)
    images = image_folder(_kaggle_folders(folder), config.images, projections.column("filename"))
    views: dict[str, list[View]] = defaultdict(list)
    if images is None:
        log.warning("%s: no image folder: %d reports are read without images", folder, len(reports))
    else:
        present = {path.name for path in images.iterdir()}
        rows = [row for _, row in projections.rows() if row["filename"] in present]
        for row in rows:
            views[row["uid"]].append(file_view(images, row["filename"], config, projection=row["projection"]))
        if len(rows) < len(projections):
            absent = len(projections) - len(rows)
            log.warning("%s: %d of %d images aren't there and are left out", images, absent, len(projections))
    reports = reports.head(config.max_studies)
    total = len(reports) + len(reports.bad) + len(projections.bad)
    return Source(_studies_of_tables(reports, projections.bad, views), total, LICENCE)


def _check_uids(reports: Table, projections: Table) -> None:
    """Raises InputError where no image is a report's."""
    reported, filmed = reports.column("uid"), projections.column("uid")
    if reported and filmed and set(reported).isdisjoint(filmed):
        raise InputError(
            f"{projections.path}: none of its {len(set(filmed))} uids is in {reports.path.name}: {filmed[0]!r} here, "
            f"{reported[0]!r} there"
        )


def _studies_of_tables(reports: Table, bad: list[BadRow], views: dict[str, list[View]]) -> Iterator[Study | BadRow]:
    yield from (*reports.bad, *bad)
    for number, row in reports.rows():
        given = _given(row.get("MeSH", "").split(";"))
        if not row["uid"]:
            yield BadRow(str(reports.path), number, "empty uid")
        elif not (row["findings"] or row["impression"] or given):
            yield BadRow(str(reports.path), number, "no findings and no impression")
        else:
            uid = f"openi-{row['uid']}"
            yield Study(uid, uid, row["findings"], row["impression"], tuple(views.get(row["uid"], ())), given)


def _given(terms: list[str]) -> tuple[Given, ...]:
    """Returns what indexers found: "Pleural Effusion/left/small"; a chest that they call normal is ``NO_FINDING``."""
    plain = (" ".join(term.split()) for term in terms)
    return listed(";".join(term for term in plain if term.lower() not in _NOT_INDEXED), _INDEXERS)


# the XML as published


def _documents(place: Path) -> list[_Document]:
    """Returns the XML files of a folder, or of an archive, by their numbers."""
    folder = next((each for each in (place / _FOLDER, place) if each.is_dir() and any(each.glob("*.xml"))), None)
    if folder is not None:
        found = [_Document(str(path), path.read_bytes) for path in folder.glob("*.xml")]
    else:
        archive = place / _ARCHIVE if place.is_dir() else place
        found = _packed(archive) if archive.is_file() else []
    return sorted(found, key=lambda document: _order(Path(document.name).stem))


def _packed(archive: Path) -> list[_Document]:
    """Returns the XML files of an archive, which are small enough to be held.

    Raises:
        InputError: it is damaged.
    """
    documents = []
    try:
        with opened(archive) as packed, tarfile.open(fileobj=packed, mode="r:gz") as tar:
            for member in tar:
                if not (member.isfile() and member.name.endswith(".xml")) or Path(member.name).name.startswith("."):
                    continue
                stream = tar.extractfile(member) if member.size <= _LARGEST_XML else None
                data = stream.read() if stream is not None else b""
                documents.append(_Document(f"{archive}/{member.name}", partial(bytes, data)))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive}: cut off or damaged ({error}); download it again") from error
    return documents


def _beside(place: Path) -> Path:
    """Returns the folder that images are looked for in."""
    return place if place.is_dir() and place.name != _FOLDER else place.parent


def _order(name: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", name)
    return int(digits) if digits else 0, name


def _from_xml(place: Path, documents: list[_Document], config: CorpusConfig) -> Source:
    folder = _beside(place)
    images = _images(folder, config.images)
    projections, bad = _projections(folder)
    if not images:
        packed = [name for name in _PACKED_IMAGES if (folder / name).is_file()]
        hint = f" (unpack {packed[0]})" if packed else ""
        log.warning("%s: no images%s: %d reports are read without them", folder, hint, len(documents))
    else:
        _check_join(folder, documents, images)
    documents = documents[: config.max_studies]
    studies = _studies_of_xml(documents, images, projections, config)
    return Source(_chained(bad, studies), len(documents) + len(bad), LICENCE)


def _check_join(folder: Path, documents: list[_Document], images: dict[str, Path]) -> None:
    """Raises InputError where no report names an image that is there."""
    named = ""
    for document in documents:
        for key, _ in _films_or_none(document):
            if key in images:
                return
            named = named or key
    if named:
        raise InputError(
            f"{folder}: none of {len(images)} images is one that a report names: {next(iter(images.values())).name!r} "
            f"is there, {named!r} is named; set corpus.images to the folder of Open-i's images"
        )


def _films_or_none(document: _Document) -> list[tuple[str, str]]:
    try:
        return _films(_parsed(document.read()))
    except _UNREADABLE:
        return []


def _chained(bad: list[BadRow], studies: Iterator[Study | BadRow]) -> Iterator[Study | BadRow]:
    yield from bad
    yield from studies


def _images(folder: Path, given: str | None) -> dict[str, Path]:
    """Returns the images below a folder by what their names have in common; of several forms PNG's comes first.

    Raises:
        InputError: the given folder doesn't exist, or holds none.
    """
    root = folder if given is None else place_of(given)
    if not root.is_dir():
        raise InputError(f"{root}: corpus.images is not a folder")
    images: dict[str, Path] = {}
    for inner, names in walk(root, _DEPTH):
        for name in names:
            suffix = Path(name).suffix.lower()
            if suffix not in _IMAGES or (key := _key(name)) is None:
                continue
            if key not in images or _IMAGES.index(suffix) < _IMAGES.index(images[key].suffix.lower()):
                images[key] = inner / name
    if given is not None and not images:
        raise InputError(f"{root}: none of its files is called like an image of Open-i; correct corpus.images")
    return images


def _key(name: str) -> str | None:
    """Returns what an image's id, and its file's name in any copy, have in common."""
    found = _NAME_ON_DISK.search(re.sub(r"(\.(dcm|png|jpe?g))+$", "", name, flags=re.IGNORECASE))
    return found[0] if found else None


def _projections(folder: Path) -> tuple[dict[str, str], list[BadRow]]:
    """Returns the projections that Kaggle's copy knows, where its table is, and its rows that can't be read."""
    if not (folder / _PROJECTIONS).is_file():
        return {}, []
    table = open_table(folder / _PROJECTIONS, ["filename", "projection"])
    named = zip(table.column("filename"), table.column("projection"), strict=True)
    return {key: word for name, word in named if (key := _key(name)) is not None}, table.bad


def _studies_of_xml(
    documents: list[_Document], images: dict[str, Path], projections: dict[str, str], config: CorpusConfig
) -> Iterator[Study | BadRow]:
    absent = 0
    for document in documents:
        try:
            root = _parsed(document.read())
        except _UNREADABLE as error:
            yield BadRow(document.name, None, f"not readable as XML ({' '.join(str(error).split())})")
            continue
        films = _films(root)
        views = [
            file_view(images[key].parent, images[key].name, config, projection=projections.get(key) or word)
            for key, word in films
            if key in images
        ]
        absent += len(films) - len(views)
        yield _study(document, root, tuple(views))
    if absent and images:
        log.warning("%d images that the reports name aren't on disk; their reports are read without them", absent)


def _study(document: _Document, root: ET.Element, views: tuple[View, ...]) -> Study | BadRow:
    named = root.find("uId")
    uid = "" if named is None else named.get("id", "").removeprefix("CXR")
    findings, impression = (_section(root, label) for label in ("FINDINGS", "IMPRESSION"))
    given = _given([term.text or "" for term in root.iter("major")])
    if not uid:
        return BadRow(document.name, None, "no uId")
    if not (findings or impression or given):
        return BadRow(document.name, None, "no findings and no impression")
    return Study(f"openi-{uid}", f"openi-{uid}", findings, impression, views, given)


def _section(root: ET.Element, label: str) -> str:
    texts = ("".join(each.itertext()) for each in root.iter("AbstractText") if each.get("Label", "").upper() == label)
    return "\n".join(text for text in map(str.strip, texts) if text)


def _films(root: ET.Element) -> list[tuple[str, str]]:
    """Returns the images of a report, each once: what their names have in common, and their projection, "" where their
    caption, which may be the whole study's, doesn't name one."""
    films: dict[str, str] = {}
    for image in root.iter("parentImage"):
        key = _key(image.get("id", ""))
        if key is not None:
            films.setdefault(key, " ".join((image.findtext("caption") or "").split()))
    captions = list(films.values())
    return [(key, _captioned(said) if captions.count(said) == 1 else "") for key, said in films.items()]


def _captioned(caption: str) -> str:
    """Returns the projection that a caption names, "" where it names none or several."""
    words = {_WORDS[word] for word in re.findall(r"[a-z]+", caption.lower()) if word in _WORDS}
    return words.pop() if len(words) == 1 else ""


class _Builder(ET.TreeBuilder):
    """Builds a tree of what declares no document type, for one may define entities that grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuses a document type.

        Raises:
            InputError: always.
        """
        raise InputError("it declares a document type, which reports of Open-i don't")


def _parsed(data: bytes) -> ET.Element:
    """Returns the root of a report.

    Raises:
        InputError: it is empty, too large, declares a document type or isn't a report.
    """
    if not data or len(data) > _LARGEST_XML:
        raise InputError("empty" if not data else "larger than any report")
    root: ET.Element = ET.fromstring(data, ET.XMLParser(target=_Builder()))
    if root.tag != "eCitation":
        raise InputError(f"a {root.tag}, not an eCitation")
    return root
