"""DICOM as radiology means it: how a file's stored values are to be shown, and the few fields that may leave it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, convert_color_space

from medsynth_core.corpus.files import found
from medsynth_core.corpus.images import check_contrast, check_pixels, check_shape, windowed
from medsynth_core.corpus.labels import age_of, sex_of
from medsynth_core.corpus.records import Pixels
from medsynth_core.errors import InputError

_RADIOGRAPHS = frozenset({"CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC", ""})
"""Modalities (0008,0060) under which chest films are kept."""
_BROKEN = (
    InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, EOFError,
    NotImplementedError,
)  # fmt: skip
"""What pydicom and its decoders raise for files that aren't as they should be."""
_EXTREMES = np.array([-(2**31), 2**31 - 1], dtype=np.int64)
_FIELDS = (
    "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientSex",
    "PatientAge", "EthnicGroup", "ViewPosition", "PatientPosition", "PatientOrientation", "SeriesDescription",
    "Manufacturer", "ImagerPixelSpacing", "PixelSpacing", "BodyPartExamined", "NumberOfFrames", "InstanceNumber",
    "ContentSequence", "ViewCodeSequence", "Rows", "Columns",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a file says of itself, as far as it is ever read.

    Attributes:
        patient, study, instance: its ids, which stand for themselves until the stage has hashed them.
        sex: F, M or None.
        age: in years, None where it is unknown.
        text: of a structured report, else "".
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
    has_picture: bool
    text: str


def load_dicom(path: Path, max_pixels: int, size: int) -> Pixels:
    """Returns a DICOM radiograph as it hangs: float32 [height, width] in 0..255, air dark.

    Stored values go through the modality LUT or rescale, then the VOI LUT or window (PS3.3 C.11.1, C.11.2); without
    one, or with one that leaves nothing to see, from their thousandth to their brightest two hundredth. MONOCHROME1 is
    inverted, padding is black, overlays aren't drawn, and Patient Orientation says which way is up and which side left.

    Raises:
        InputError: it can't be decoded, holds several frames or none, or isn't a radiograph; or as ``load_film``.
    """
    try:
        file = pydicom.dcmread(found(path))
        check_dicom(file)
        check_pixels(file.Columns, file.Rows, max_pixels)
        check_shape(file.Columns, file.Rows, size)
        pixels = _oriented(_shown(file), file)
        check_contrast(pixels)
        return pixels
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"{path}: DICOM that can't be decoded ({' '.join(str(error).split())[:200]})") from error


def check_dicom(file: Any) -> None:
    """Raises InputError for what isn't one picture of a radiograph."""
    modality = str(file.get("Modality", ""))
    if modality not in _RADIOGRAPHS:
        raise InputError(f"DICOM of modality {modality}, not a radiograph")
    if "PixelData" not in file:
        raise InputError("DICOM without a picture")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(f"DICOM of {frames} frames; a film has one")


def _shown(file: Any) -> npt.NDArray[np.float32]:
    """Returns grey values in 0..255 by the file's own rules."""
    stored = file.pixel_array
    if stored.ndim == 3:
        colour = file.PhotometricInterpretation
        rgb = convert_color_space(stored, colour, "RGB") if colour.startswith("YBR") else stored
        return np.asarray(rgb @ np.array([0.299, 0.587, 0.114]), dtype=np.float32)
    bits = int(file.BitsStored)
    if bits < int(file.BitsAllocated) and not int(file.PixelRepresentation):
        stored = stored & ((1 << bits) - 1)  # bits above are an overlay's
    padding = _padding(stored, file)
    values = apply_modality_lut(stored, file)
    shown = _by_its_window(values, file)
    if shown is None:
        inner = values if padding is None else np.where(padding, np.median(values[~padding]), values)
        shown = windowed(inner.astype(np.int64) if np.array_equal(inner, np.rint(inner)) else inner)
    if file.PhotometricInterpretation == "MONOCHROME1":
        shown = np.float32(255.0) - shown
    if padding is not None:
        shown = np.where(padding, np.float32(0.0), shown)
    return shown


def _by_its_window(values: npt.NDArray[Any], file: Any) -> npt.NDArray[np.float32] | None:
    """Returns values by the file's VOI LUT or window; None without one, or where hardly anything shows in it."""
    has_window = file.get("WindowCenter") is not None and file.get("WindowWidth") is not None
    if not (file.get("VOILUTSequence") or has_window):
        return None
    shown = np.asarray(apply_voi_lut(values, file), dtype=np.float32)
    ends = np.asarray(apply_voi_lut(_EXTREMES.astype(values.dtype, casting="unsafe"), file), dtype=np.float32)
    low, high = float(min(shown.min(), ends.min())), float(max(shown.max(), ends.max()))
    if high <= low:
        return None
    shown = np.clip((shown - low) * np.float32(255.0 / (high - low)), 0.0, 255.0)
    try:
        check_contrast(shown)
    except InputError:
        return None
    return shown


def _padding(stored: npt.NDArray[Any], file: Any) -> npt.NDArray[np.bool_] | None:
    """Returns where there is no picture (PS3.3 C.7.5.1.1.2), None where it is everywhere or nowhere."""
    first = file.get("PixelPaddingValue")
    if first is None:
        return None
    last = file.get("PixelPaddingRangeLimit", first)
    where = (stored >= min(first, last)) & (stored <= max(first, last))
    return where if where.any() and not where.all() else None


def _oriented(pixels: npt.NDArray[np.float32], file: Any) -> npt.NDArray[np.float32]:
    """Returns the film with the head up and, of a frontal one, the patient's left at the right (PS3.3 C.7.6.1.1.1)."""
    said = [str(each)[:1].upper() for each in file.get("PatientOrientation") or ()]
    if len(said) != 2:
        return pixels
    across, down = said
    if across in "HF":
        pixels, across, down = pixels.T, down, across
    if down == "H":
        pixels = pixels[::-1]
    if across == "R":
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def read_header(path: Path) -> Header:
    """Returns the fields of a file that may leave it; its pixels aren't read.

    Raises:
        InputError: it isn't DICOM, or is damaged.
    """
    try:
        file = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_FIELDS))
        spacing = file.get("ImagerPixelSpacing") or file.get("PixelSpacing")
        return Header(
            path=path,
            modality=str(file.get("Modality", "")),
            patient=str(file.get("PatientID", "")),
            study=str(file.get("StudyInstanceUID", "")),
            instance=str(file.get("SOPInstanceUID", path.name)),
            sex=sex_of(str(file.get("PatientSex", "") or "")),
            age=age_of(str(file.get("PatientAge", "") or "")),
            race=str(file.get("EthnicGroup", "") or "") or None,
            projection=_projection(file),
            manufacturer=str(file.get("Manufacturer", "") or "") or None,
            pixel_spacing_mm=float(spacing[0]) if spacing else None,
            has_picture=bool(file.get("Rows")),
            text=_text_of(file),
        )
    except _BROKEN as error:
        raise InputError(f"{path}: not readable as DICOM ({' '.join(str(error).split())[:200]})") from error


def _projection(file: Any) -> str:
    """Returns the projection as one word: the view position, lying down where the patient's position says so."""
    said = str(file.get("ViewPosition", "") or "")
    if not said and file.get("ViewCodeSequence"):
        said = str(file.ViewCodeSequence[0].get("CodeMeaning", ""))
    lying = "supine" in str(file.get("SeriesDescription", "")).lower()
    return "AP supine" if said == "AP" and lying else said


def _text_of(file: Any) -> str:
    """Returns the text of a structured report, one line an item (PS3.3 C.17.3)."""
    lines: list[str] = []

    def read(items: Any) -> None:
        for item in items or ():
            if item.get("ValueType") == "TEXT":
                name = item.ConceptNameCodeSequence[0].CodeMeaning if item.get("ConceptNameCodeSequence") else ""
                lines.append(f"{name}: {item.TextValue}" if name else str(item.TextValue))
            read(item.get("ContentSequence"))

    read(file.get("ContentSequence"))
    return "\n".join(lines)
