"""DICOM as radiology means it: how a file's stored values are to be shown, and the few facts that may leave it.

Read are files of DICOM PS3.10 (2024), with a preamble or without one, in every transfer syntax that GDCM, Pillow or
pydicom decodes; not High-Throughput JPEG 2000 or video.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from medsynth_core.corpus.files import found
from medsynth_core.corpus.images import check_contrast, check_pixels, check_shape, windowed
from medsynth_core.corpus.labels import age_of, sex_of
from medsynth_core.corpus.records import Pixels
from medsynth_core.corpus.views import projection_of
from medsynth_core.errors import InputError

RADIOGRAPHS = frozenset({"CR", "DX", "DR", "RG", "RF", "OT", "SC", ""})
"""Modalities (0008,0060) under which chest films are kept."""
_BROKEN = (
    InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, EOFError,
    NotImplementedError,
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
_MARK_AT, _MARK = 128, b"DICM"
_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a file without a preamble begins: its first element's group."""
_MARKED = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})
_END_OF_IMAGE = b"\xff\xd9"
"""Ends every code stream of the JPEG family."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DIGITS = 16
_AS_STORED: dict[str, Any] = {"correct_unused_bits": False}
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


def begins_as_dicom(path: Path) -> bool:
    """Returns whether a file begins as DICOM's do, with a preamble or without one.

    Raises:
        OSError: it can't be opened.
    """
    with path.open("rb") as stream:
        return _begins_as_dicom(stream)


def load_dicom(path: Path, max_pixels: int, size: int) -> Pixels:
    """Returns a DICOM radiograph as it hangs: float32 [height, width] in 0..255, air dark.

    Stored values go through the modality LUT or rescale, then the VOI LUT or the first window (PS3.3 C.11.1, C.11.2);
    without one, or with one that leaves nothing to see, from their thousandth to their brightest two hundredth.
    MONOCHROME1 is inverted, padding is black, overlays aren't drawn, and Patient Orientation says which way is up and
    which side left.

    Raises:
        InputError: it can't be decoded, holds several frames or none, or isn't a radiograph; or as ``load_film``.
    """
    try:
        with found(path).open("rb") as stream:
            return decode_dicom(stream, str(path), max_pixels, size)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except OSError as error:
        raise InputError(f"{path}: {_why(error)}") from error


def decode_dicom(stream: IO[bytes], source: str, max_pixels: int, size: int) -> Pixels:
    """Returns the radiograph of an open file, as ``load_dicom``.

    Args:
        source: what an error message calls it.

    Raises:
        InputError: as ``load_dicom``.
    """
    try:
        file = _read(stream)
        check_dicom(file)
        check_pixels(file.Columns, file.Rows, max_pixels)
        check_shape(file.Columns, file.Rows, size)
        with _quiet():
            pixels = _oriented(_shown(file), file)
        check_contrast(pixels)
        return pixels
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"{source}: DICOM that can't be decoded ({_why(error)})") from error


def check_dicom(file: Any) -> None:
    """Raises InputError for what isn't one picture of a radiograph."""
    modality = str(file.get("Modality") or "")
    if modality not in RADIOGRAPHS:
        raise InputError(f"DICOM of modality {modality}, not a radiograph")
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
        if not path.stat().st_size:
            raise InputError("the file is empty")
        with path.open("rb") as stream:
            file = _read(stream, stop_before_pixels=True, specific_tags=list(_FIELDS))
        for name, called in _NEEDED.items():
            if needs_ids and not _said(file, name):
                raise InputError(f"DICOM without a {called} (cut off?)")
    except _BROKEN as error:
        raise InputError(f"not readable as DICOM ({_why(error)})") from error
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
        with _quiet(), path.open("rb") as stream:
            return "\n\n".join(_items(_read(stream, stop_before_pixels=True).get("ContentSequence")))
    except _BROKEN as error:
        raise InputError(f"a structured report that can't be read ({_why(error)})") from error


def files_of(directory: Path) -> list[Path]:
    """Returns the files that a DICOMDIR names, in its order (PS3.3 F.3).

    Raises:
        InputError: it isn't one, or is damaged.
    """
    try:
        with _quiet(), directory.open("rb") as stream:
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


def _begins_as_dicom(stream: IO[bytes]) -> bool:
    begins = stream.read(_MARK_AT + len(_MARK))
    stream.seek(0)
    return begins[_MARK_AT:] == _MARK or (begins[:2] in _GROUPS and len(begins) > _MARK_AT)


def _read(stream: IO[bytes], **options: Any) -> Any:
    """Returns a file's data set; one without a preamble, or without file meta information, as what it seems to be."""
    with _quiet():
        if not _begins_as_dicom(stream):
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


def _shown(file: Any) -> npt.NDArray[np.float32]:
    """Returns grey values in 0..255 by the file's own rules."""
    stored, kind = _decoded(file)
    if kind == "PALETTE COLOR":
        stored, kind = apply_color_lut(stored, file), "RGB"
    if stored.ndim == 3:
        return _grey(stored, kind, file)
    plain = _without_spare_bits(stored, file)
    padding = _padding(file, stored, plain)
    values = _modality_values(plain, file)
    shown = _by_its_window(values, file)
    if shown is None:
        inner = values if padding is None else np.where(padding, np.median(values[~padding]), values)
        shown = windowed(inner.astype(np.int64) if np.array_equal(inner, np.rint(inner)) else inner)
    if kind == "MONOCHROME1":
        shown = np.float32(255.0) - shown
    if padding is not None:
        shown = np.where(padding, np.float32(0.0), shown)
    return shown


def _decoded(file: Any) -> tuple[npt.NDArray[Any], str]:
    """Returns stored values and their photometric interpretation, YBR having become RGB.

    Raises:
        ValueError: the picture is cut off.
    """
    syntax = file.file_meta.TransferSyntaxUID
    if syntax in _MARKED:
        frame = next(generate_frames(file.PixelData, number_of_frames=1))
        if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
            raise ValueError("its picture is cut off")
        if syntax == JPEGExtended12Bit and int(file.BitsStored) > 8:
            return _twelve_bits(frame, file), str(file.PhotometricInterpretation)
    values, about = get_decoder(syntax).as_array(file, **_AS_STORED)
    return values, str(about["photometric_interpretation"])


def _twelve_bits(frame: bytes, file: Any) -> npt.NDArray[Any]:
    """Returns the values of a JPEG of 12 bits, which pydicom has no decoder for and GDCM has."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((file.Columns, file.Rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(file.PhotometricInterpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str(file.file_meta.TransferSyntaxUID))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, int(file.PixelRepresentation)))
    pixels = image.GetBuffer().encode("utf-8", "surrogateescape")
    dtype = "<i2" if file.PixelRepresentation else "<u2"
    return np.frombuffer(pixels, dtype).reshape(file.Rows, file.Columns)


def _grey(colours: npt.NDArray[Any], kind: str, file: Any) -> npt.NDArray[np.float32]:
    """Returns the luma (ITU-R BT.601) of a picture in colours."""
    if kind != "RGB":
        raise ValueError(f"colours as {kind}, which aren't read")
    brightest = 255.0 if colours.dtype == np.uint8 else float(2**16 - 1)
    if kind == file.PhotometricInterpretation:
        brightest = float(2 ** int(file.BitsStored) - 1)
    return np.asarray(colours.astype(np.float32) @ _LUMA * np.float32(255.0 / brightest), dtype=np.float32)


def _without_spare_bits(stored: npt.NDArray[Any], file: Any) -> npt.NDArray[Any]:
    """Returns values of Bits Stored bits: those above and below, where overlays once were kept, are dropped, and the
    sign is carried up (PS3.5 8.1.1)."""
    bits, width = int(file.BitsStored), stored.dtype.itemsize * 8
    in_code_stream = file.file_meta.TransferSyntaxUID in _MARKED
    if bits >= width or (in_code_stream and stored.dtype.kind == "u"):
        return stored
    above = width - bits if in_code_stream else max(0, width - 1 - int(file.get("HighBit", bits - 1)))
    return np.right_shift(np.left_shift(stored, above), width - bits)


def _padding(file: Any, *stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Returns where there is no picture (PS3.3 C.7.5.1.1.2), None where it is everywhere or nowhere."""
    first = file.get("PixelPaddingValue")
    if first is None or isinstance(first, bytes):
        return None
    last = file.get("PixelPaddingRangeLimit")
    first, last = sorted((int(first), int(first if last is None else last)))
    where = np.logical_or.reduce([(values >= first) & (values <= last) for values in stored])
    return where if where.any() and not where.all() else None


def _modality_values(stored: npt.NDArray[Any], file: Any) -> npt.NDArray[Any]:
    """Returns what stored values stand for: by the modality LUT or the rescale (PS3.3 C.11.1)."""
    if file.get("ModalityLUTSequence"):
        return _through(stored, file.ModalityLUTSequence[0], file)[0]
    slope, intercept = file.get("RescaleSlope"), file.get("RescaleIntercept")
    if slope is None or intercept is None or not float(slope):
        return stored
    return stored * float(slope) + float(intercept)


def _by_its_window(values: npt.NDArray[Any], file: Any) -> npt.NDArray[np.float32] | None:
    """Returns values by the file's VOI LUT or first window; None without one, or where hardly anything shows in it."""
    if file.get("VOILUTSequence"):
        looked_up, table = _through(values, file.VOILUTSequence[0], file)
        low, high = float(table.min()), float(table.max())
        shares = (looked_up - low) / (high - low) if high > low else None
    else:
        shares = _window(values.astype(np.float64), file)
    if shares is None:
        return None
    shown = (np.clip(shares, 0.0, 1.0) * 255.0).astype(np.float32)
    try:
        check_contrast(shown)
    except InputError:
        return None
    return shown


def _window(values: npt.NDArray[np.float64], file: Any) -> npt.NDArray[np.float64] | None:
    """Returns where values are in the first window, 0 at its dark end and 1 at its bright one (PS3.3 C.11.2.1.2)."""
    center, width = (_first(file.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(_first(file.get("VOILUTFunction")) or "LINEAR").upper()
    if center is None or width is None or float(width) < (1 if function == "LINEAR" else 1e-9):
        return None
    center, width = float(center), float(width)
    if function == "SIGMOID":
        shares: npt.NDArray[np.float64] = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
        return shares
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5


def _first(value: Any) -> Any:
    """Returns the first of several values, None where there is none."""
    if isinstance(value, MultiValue):
        return value[0] if len(value) else None
    return None if value == "" else value


def _through(values: npt.NDArray[Any], item: Any, file: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns values looked up in a LUT, and the LUT (PS3.3 C.11.1.1)."""
    count, first, bits = (int(each) for each in item.LUTDescriptor)
    table = _table(item.LUTData, count or 1 << 16, bits, file)
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # written without its sign
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[places].astype(np.int64), table


def _table(data: Any, count: int, bits: int, file: Any) -> npt.NDArray[Any]:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))
    if bits <= 8 and len(data) <= count + 1:
        return np.frombuffer(data, np.uint8)[:count]
    return np.frombuffer(data, "<u2" if file.file_meta.TransferSyntaxUID.is_little_endian else ">u2")[:count]


def _oriented(pixels: npt.NDArray[np.float32], file: Any) -> npt.NDArray[np.float32]:
    """Returns the film with the head up and, of a frontal one, the patient's left at the right (PS3.3 C.7.6.1.1.1)."""
    across, down = _directions(file)
    if across in {"H", "F"} and down not in {"H", "F"}:
        pixels, across, down = pixels.T, down, across
    if down == "H":
        pixels = pixels[::-1]
    if across == "R":
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _directions(file: Any) -> tuple[str, str]:
    """Returns where rows and columns go: L, R, A, P, H or F each; "" where the file doesn't say."""
    said = file.get("PatientOrientation")
    if not isinstance(said, MultiValue) or len(said) != 2:
        return "", ""
    across, down = (str(each).strip()[:1].upper() for each in said)
    return across, down


def _said(file: Any, name: str) -> str:
    """Returns a field as text, "" where it is empty, missing or damaged."""
    try:
        value = _first(file.get(name))
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
    return word or _by_orientation(_directions(file)) or said or coded


def _described(series: str) -> str:
    """Returns the projection that a series' description names, "" where it names none or several."""
    words = {_SEEN_FROM[word] for word in re.findall(r"[A-Z]+", series.upper()) if word in _SEEN_FROM}
    words -= {"AP"} if "AP supine" in words else set()
    return words.pop() if len(words) == 1 else ""


def _by_orientation(directions: tuple[str, str]) -> str:
    if {"H", "F"}.isdisjoint(directions):
        return ""
    if {"A", "P"} & set(directions):
        return "lateral"
    return "frontal" if {"L", "R"} & set(directions) else ""


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
