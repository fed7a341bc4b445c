"""DICOM files: their pictures, their reports and the few facts that may leave them.

Read are files of DICOM PS3.10 (2024), with a preamble or without one, in every transfer syntax that GDCM, Pillow or
pydicom decodes; not High-Throughput JPEG 2000 or video.
"""

from __future__ import annotations

import hashlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from medsynth_core.corpus.dicom_pixels import directions, displayed, first_of
from medsynth_core.corpus.images import (
    begins_as_dicom,
    block_side,
    check_contrast,
    check_pixels,
    check_shape,
    opened_image,
)
from medsynth_core.corpus.labels import age_of, sex_of
from medsynth_core.corpus.places import opened, opened_in_parts, version_of
from medsynth_core.corpus.records import Pixels
from medsynth_core.corpus.views import projection_of
from medsynth_core.errors import InputError

RADIOGRAPHS = frozenset({"CR", "DX", "DR", "RG", "RF", "OT", "SC", ""})
"""Modalities (0008,0060) under which chest films are kept."""
OTHER_MODALITIES = frozenset(
    ["CT", "MR", "US", "MG", "NM", "PT", "XA", "PX", "IO", "ES", "XC", "OP", "SM", "BMD", "SR", "PR", "KO", "SEG"]
)  # fmt: skip
"""Those that a message names; of any other, the field may be damaged and hold what follows it in the file."""
UNDECODED = "DICOM that can't be decoded"
"""How an error begins, but for the file's name, behind which the decoder's words may quote fields."""
_BROKEN = (
    InvalidDicomError, BytesLengthException, OSError, ValueError, TypeError, AttributeError, KeyError, IndexError,
    RuntimeError, EOFError, NotImplementedError, ArithmeticError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise for files that aren't as they should be."""
_FIELDS = (
    "Modality", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientSex", "PatientAge",
    "EthnicGroup", "ViewPosition", "PatientOrientation", "PatientOrientationCodeSequence", "SeriesDescription",
    "Manufacturer", "ImagerPixelSpacing", "PixelSpacing", "BodyPartExamined", "BurnedInAnnotation",
    "ViewCodeSequence", "Rows",
)  # fmt: skip
_NEEDED = {"StudyInstanceUID": "Study Instance UID", "SOPInstanceUID": "SOP Instance UID"}
_REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35))
"""SOP classes of reports: Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR."""
_DIGITS = 16
_NO_SPACING = 1.0
"""Millimetres that converters write where they know none."""
_SEEN_FROM = {"LATERAL": "lateral", "LAT": "lateral", "PA": "PA", "AP": "AP", "SUPINE": "AP supine"}
"""Words of a series' description that name its projection."""


@dataclass(frozen=True, slots=True)
class Header:
    """What may leave a file, but for its pixels.

    Attributes:
        modality: as (0008,0060).
        patient, study, instance: pseudonyms of its ids; the patient's is "" where the file has none.
        sex: F, M or None.
        age: in years, None where it is unknown.
        race: as the file calls it, None where it doesn't.
        projection: a word for it, "" where nothing tells.
        body_part: as (0018,0015), in capitals.
        names_patient: whether the file says that its picture shows who the patient is (0028,0301).
        has_picture: whether it is an image.
        is_report: whether it is a structured report.
    """

    path: Path
    modality: str
    patient: str
    study: str
    instance: str
    sex: str | None
    age: int | None
    race: str | None
    projection: str
    manufacturer: str | None
    pixel_spacing_mm: float | None
    body_part: str
    names_patient: bool
    has_picture: bool
    is_report: bool


def pseudonym(identifier: str) -> str:
    """Returns what stands for an identifier in every run: 16 hexadecimal digits of its SHA-256; "" for none."""
    plain = identifier.strip().strip("\0")
    return hashlib.sha256(f"medsynth:{plain}".encode()).hexdigest()[:_DIGITS] if plain else ""


def load_dicom(path: Path, max_pixels: int, size: int, whole: bool = False) -> Pixels:
    """Returns a DICOM radiograph as it hangs: float32 [height, width] in 0..255, air dark.

    Stored values go through the modality LUT or rescale, then the VOI LUT or the first window (PS3.3 C.11.1, C.11.2);
    without one, or with one that leaves nothing to see, from their thousandth to their brightest two hundredth.
    MONOCHROME1 is inverted, padding is black, overlays aren't drawn, and Patient Orientation says which way is up and
    which side left. Unless it is to be ``whole``, a large one is given by the means of square blocks of it, no smaller
    than twice ``size``.

    Raises:
        InputError: it can't be decoded, holds several frames or none, or isn't a radiograph; or as ``load_film``.
    """
    with opened_image(path) as stream:
        return decode_dicom(stream, str(path), max_pixels, size, whole)


def decode_dicom(stream: IO[bytes], source: str, max_pixels: int, size: int, whole: bool = False) -> Pixels:
    """Returns the radiograph of an open file, as ``load_dicom``.

    Args:
        source: what an error message calls it.

    Raises:
        InputError: as ``load_dicom``.
    """
    try:
        with _quiet():
            file = _read(stream)
            check_dicom(file)
            check_pixels(file.Columns, file.Rows, max_pixels)
            check_shape(file.Columns, file.Rows, size)
            pixels = displayed(file, 1 if whole else block_side(file.Columns, file.Rows, size))
        check_contrast(pixels)
        return pixels
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"{source}: {UNDECODED} ({_why(error)})") from error


def check_dicom(file: Any) -> None:
    """Raises InputError for what isn't one picture of a radiograph."""
    modality = str(file.get("Modality") or "")
    if modality not in RADIOGRAPHS:
        known = f"of modality {modality}" if modality in OTHER_MODALITIES else "of another modality"
        raise InputError(f"DICOM {known}, not a radiograph")
    if not file.get("PixelData"):
        raise InputError("DICOM without a picture")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(f"DICOM of {frames} frames; a film has one")


def read_header(path: Path, needs_ids: bool = False) -> Header:
    """Returns the facts of a file that may leave it; its pixels aren't read.

    A field that is damaged counts as empty.

    Args:
        needs_ids: whether the file must say which study it is of.

    Raises:
        InputError: it isn't DICOM, is damaged or, where it must, names no study; the message doesn't name it.
    """
    try:
        if not version_of(path)[0]:
            raise InputError("the file is empty")
        with _quiet(), opened_in_parts(path) as stream:
            file = _read(stream, stop_before_pixels=True, specific_tags=list(_FIELDS))
            lacking = next((called for name, called in _NEEDED.items() if not _said(file, name)), None)
        if needs_ids and lacking:
            raise InputError(f"DICOM without a {lacking} (cut off?)")
    except _BROKEN as error:
        raise InputError(f"not readable as DICOM ({type(error).__name__})") from error
    with _quiet():
        return Header(
            path=path,
            modality=_said(file, "Modality"),
            patient=pseudonym(_said(file, "PatientID")),
            study=pseudonym(_said(file, "StudyInstanceUID")),
            instance=pseudonym(_said(file, "SOPInstanceUID")),
            sex=sex_of(_said(file, "PatientSex")),
            age=age_of(_said(file, "PatientAge")),
            race=_said(file, "EthnicGroup") or None,
            projection=_projection(file),
            manufacturer=_said(file, "Manufacturer") or None,
            pixel_spacing_mm=_spacing(file),
            body_part=_said(file, "BodyPartExamined").upper(),
            names_patient=_said(file, "BurnedInAnnotation").upper() == "YES",
            has_picture=bool(_said(file, "Rows")),
            is_report=_said(file, "SOPClassUID") in _REPORTS,
        )


def read_report(path: Path) -> str:
    """Returns the text of a structured report, an item a paragraph under its name (PS3.3 C.17.3).

    Raises:
        InputError: it is damaged; the message doesn't name it.
    """
    try:
        with _quiet(), opened(path) as stream:
            return "\n\n".join(_items(_read(stream, stop_before_pixels=True).get("ContentSequence")))
    except (InputError, *_BROKEN) as error:
        raise InputError(f"a structured report that can't be read ({type(error).__name__})") from error


def files_of(directory: Path) -> list[Path]:
    """Returns the files that a DICOMDIR names, in its order (PS3.3 F.3).

    Raises:
        InputError: it isn't one, or is damaged.
    """
    try:
        with _quiet(), opened(directory) as stream:
            records = _read(stream).DirectoryRecordSequence
            named = [record.get("ReferencedFileID") for record in records]
    except (InputError, *_BROKEN) as error:
        raise InputError(f"{directory}: not a readable DICOMDIR ({_why(error)})") from error
    parts = [[str(part) for part in ([each] if isinstance(each, str) else each)] for each in named if each]
    if any(part in {"", ".", ".."} or "/" in part or "\\" in part for each in parts for part in each):
        raise InputError(f"{directory}: names files outside its folder")
    return [directory.parent.joinpath(*each) for each in parts]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what pydicom warns of and logs, for it quotes fields."""
    logger = logging.getLogger("pydicom")
    was_off, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_off


def _why(error: Exception) -> str:
    """Returns an error's text; of the system's without the path that it names."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


def _read(stream: IO[bytes], **options: Any) -> Any:
    """Returns a file's data set; one without a preamble, or without file meta information, as what it seems to be."""
    with _quiet():
        if not begins_as_dicom(stream):
            raise InputError("not DICOM, by how it begins")
        file = pydicom.dcmread(stream, force=True, **options)
        if "TransferSyntaxUID" not in file.file_meta:
            implicit, little = file.original_encoding
            file.file_meta.TransferSyntaxUID = (
                pydicom.uid.ImplicitVRLittleEndian
                if implicit
                else pydicom.uid.ExplicitVRLittleEndian
                if little
                else pydicom.uid.ExplicitVRBigEndian
            )
        return file


def _said(file: Any, name: str) -> str:
    """Returns a field as text, "" where it is empty, missing or damaged."""
    try:
        value = first_of(file.get(name))
        return "" if value is None else str(value).strip().strip("\0").strip()
    except _BROKEN:
        return ""


def _spacing(file: Any) -> float | None:
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        try:
            spacing = float(_said(file, name))
        except ValueError:
            continue
        if spacing > 0 and np.isfinite(spacing) and spacing != _NO_SPACING:
            return spacing
    return None


def _projection(file: Any) -> str:
    """Returns a word for the projection: by View Position, the code of the view, the series' description or, last,
    what Patient Orientation tells of it. An AP film of somebody who lies is a supine one."""
    said = _said(file, "ViewPosition")
    coded = _meaning(file, "ViewCodeSequence")
    described = _described(_said(file, "SeriesDescription"))
    word = next((each for each in (said, coded, described) if projection_of(each) != "unknown"), "")
    lying = described == "AP supine" or _meaning(file, "PatientOrientationCodeSequence").lower() == "recumbent"
    if projection_of(word) == "AP" and lying:
        return "AP supine"
    return word or _by_orientation(file) or said or coded


def _described(series: str) -> str:
    """Returns the projection that a series' description names, "" where it names none or several."""
    words = {_SEEN_FROM[word] for word in re.findall(r"[A-Z]+", series.upper()) if word in _SEEN_FROM}
    words -= {"AP"} if "AP supine" in words else set()
    return words.pop() if len(words) == 1 else ""


def _by_orientation(file: Any) -> str:
    try:
        said = set(directions(file))
    except _BROKEN:
        return ""
    if said.isdisjoint({"H", "F"}):
        return ""
    if said & {"A", "P"}:
        return "lateral"
    return "frontal" if said & {"L", "R"} else ""


def _meaning(file: Any, name: str) -> str:
    """Returns what the first code of a sequence means."""
    try:
        sequence = file.get(name)
        return _said(sequence[0], "CodeMeaning") if sequence else ""
    except _BROKEN:
        return ""


def _items(items: Any) -> Iterator[str]:
    for item in items or ():
        if item.get("ValueType") == "TEXT" and (text := _said(item, "TextValue")):
            name = _meaning(item, "ConceptNameCodeSequence")
            yield f"{name}: {text}" if name else text
        yield from _items(item.get("ContentSequence"))
