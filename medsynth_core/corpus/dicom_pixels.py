"""How the stored values of a DICOM file are to be shown: PS3.3 C.7.6, C.11.1 and C.11.2 of the 2024 edition."""

from __future__ import annotations

import struct
import zlib  # noqa: F401 - before gdcm: a system's zlib that GDCM's own loads first calls into that and corrupts memory
from collections.abc import Callable
from typing import Any

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from medsynth_core.corpus.images import COUNTED, LOOKED_AT, check_contrast, quantiles, some, stretched
from medsynth_core.errors import InputError

_MARKED = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})
_END_OF_IMAGE = b"\xff\xd9"
"""Ends every code stream of the JPEG family."""
_JPEG_2000 = b"\xff\x4f"
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers of what says the size of a JPEG, of any process, and of a JPEG-LS."""
_SEGMENTS = frozenset({0xC4, 0xC8, 0xCC, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, *range(0xE0, 0xFF)})
"""Markers of the other segments before a scan."""
_SCAN = 0xDA
_SIZE_MARKER = 45
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_AS_STORED: dict[str, Any] = {"correct_unused_bits": False, "view_only": True}
_AT_ONCE = 1 << 18
"""Pixels that are shown at a time: they stay in a processor's cache."""


def displayed(file: Any, block: int = 1) -> npt.NDArray[np.float32]:
    """Returns the picture of a data set as it hangs, by means of square blocks: float32 [height, width] in 0..255, air
    dark.

    Args:
        block: pixels of a block's side.

    Raises:
        InputError: the picture is cut off or of another size than the file says.
        Exception: any of pydicom's and its decoders' where the file isn't as it should be.
    """
    stored, kind = _decoded(file)
    if stored.ndim == 3:
        return _oriented(_means(stored, lambda strip: _grey(strip, kind, file), block), file)
    words, places = _words(stored)
    greys = _shown(words, some(places, COUNTED), kind, file)
    # None is outside; to wrap what is costs less than to look for it.
    return _oriented(_means(places, lambda strip: greys.take(strip, mode="wrap"), block), file)


def _words(stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns all values that may be stored, and each pixel's place among them."""
    width = stored.dtype.itemsize
    if width > 2:
        words, places = np.unique(stored, return_inverse=True)
        return words, places.reshape(stored.shape)
    words = np.arange(256**width, dtype=f"u{width}")
    return words.view(stored.dtype.newbyteorder("=")), stored.view(stored.dtype.str.replace("i", "u"))


def _means(
    stored: npt.NDArray[Any], shown: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]], block: int
) -> npt.NDArray[np.float32]:
    """Returns the means of square blocks of stored values as they are shown; rows and columns that fill no block are
    left out, half on either side."""
    height, width = stored.shape[0] // block, stored.shape[1] // block
    top, left = stored.shape[0] % block // 2, stored.shape[1] % block // 2
    means = np.empty((height, width), dtype=np.float32)
    rows = max(1, _AT_ONCE // (block * block * width))
    for first in range(0, height, rows):
        strip = means[first : first + rows]
        begin, end = top + first * block, top + (first + len(strip)) * block
        values = shown(stored[begin:end, left : left + width * block])
        across = values.reshape(len(strip), block, -1).sum(1)
        np.divide(sum(across[:, column::block] for column in range(block)), block * block, out=strip)
    return means


def _shown(words: npt.NDArray[Any], seen: npt.NDArray[Any], kind: str, file: Any) -> npt.NDArray[np.float32]:
    """Returns as which grey values in 0..255 words are shown, by the file's own rules.

    Args:
        seen: places among the words of those that some pixels have.
    """
    if kind == "PALETTE COLOR":
        return _grey(apply_color_lut(words, file), "RGB", file)
    plain = _without_spare_bits(words, file)
    padding = _padding(file, words, plain)
    if padding.any() and padding[seen].all():
        padding[:] = False
    values = _modality_values(plain, file)
    shown = _by_its_window(values, seen, file)
    if shown is None:
        shown = stretched(values, *_ends(values[seen], padding[seen]))
    if kind == "MONOCHROME1":
        shown = np.float32(255.0) - shown
    shown[padding] = 0.0
    return shown


def _ends(values: npt.NDArray[Any], padding: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Returns what becomes black and white of a film without a window; padding counts as grey."""
    if not np.isfinite(values).all():
        raise InputError("some pixels are no number (NaN or infinite)")
    if padding.any():
        values = np.where(padding, np.median(values[~padding]), values)
    return quantiles(values.astype(np.int64) if np.array_equal(values, np.rint(values)) else values)


def _decoded(file: Any) -> tuple[npt.NDArray[Any], str]:
    """Returns stored values and their photometric interpretation, YBR having become RGB.

    Raises:
        InputError: the picture is cut off.
    """
    syntax = file.file_meta.TransferSyntaxUID
    if syntax in _MARKED:
        frame = next(generate_frames(file.PixelData, number_of_frames=1))
        _check_code_stream(frame, file)
        if syntax == JPEGExtended12Bit and int(file.BitsStored) > 8:
            return _twelve_bits(frame, file), str(file.PhotometricInterpretation)
    values, about = get_decoder(syntax).as_array(file, **_AS_STORED)
    return values, str(about["photometric_interpretation"])


def _check_code_stream(frame: bytes, file: Any) -> None:
    """Raises InputError for a picture that is cut off or another than the file says, on which decoders break down."""
    if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
        raise InputError("its picture is cut off")
    said = _size_of_jpeg_2000(frame) if frame.startswith(_JPEG_2000) else _size_of_jpeg(frame)
    wanted = (int(file.Rows), int(file.Columns), int(file.SamplesPerPixel))
    bits, signed = int(file.BitsAllocated), int(file.PixelRepresentation)
    if said is None or said[:3] != wanted or not 1 < said[3] <= bits <= 16 or signed not in {0, 1}:
        raise InputError("its picture isn't of the size and depth that the file says, or damaged")


def _size_of_jpeg(frame: bytes) -> tuple[int, int, int, int] | None:
    """Returns rows, columns, samples and bits of a JPEG or JPEG-LS (ISO 10918-1 B.2.2), None where its markers don't
    lead from them to a scan."""
    place, size = 2, None
    while frame[place : place + 1] == b"\xff" and place + 9 < len(frame):
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4])
        if marker == _SCAN:
            return size
        if marker in _FRAME_HEADERS:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
            size = (rows, columns, samples, bits) if length == 8 + 3 * samples else None
        elif marker not in _SEGMENTS:
            return None
        place += 2 + length
    return None


def _size_of_jpeg_2000(frame: bytes) -> tuple[int, int, int, int] | None:
    """Returns rows, columns, samples and bits of a JPEG 2000 code stream (ISO 15444-1 A.5.1), None where samples
    differ."""
    if len(frame) < _SIZE_MARKER or frame[2:4] != b"\xff\x51":
        return None
    right, lower, left, upper = struct.unpack_from(">4I", frame, 8)
    samples = int.from_bytes(frame[40:42])
    depths = {frame[at : at + 3] for at in range(42, 42 + 3 * samples, 3)}
    if len(depths) != 1 or (depth := depths.pop())[1:] != b"\1\1":
        return None
    return lower - upper, right - left, samples, (depth[0] & 0x7F) + 1


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
        raise InputError("its colours are of a kind that isn't read")
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


def _padding(file: Any, *stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns where there is no picture (PS3.3 C.7.5.1.1.2)."""
    first = file.get("PixelPaddingValue")
    if first is None or isinstance(first, bytes):
        return np.zeros(stored[0].shape, dtype=np.bool_)
    last = file.get("PixelPaddingRangeLimit")
    first, last = sorted((int(first), int(first if last is None else last)))
    return np.logical_or.reduce([(values >= first) & (values <= last) for values in stored])


def _modality_values(stored: npt.NDArray[Any], file: Any) -> npt.NDArray[Any]:
    """Returns what stored values stand for: by the modality LUT or the rescale (PS3.3 C.11.1)."""
    if file.get("ModalityLUTSequence"):
        return _through(stored, file.ModalityLUTSequence[0], file)[0]
    slope, intercept = file.get("RescaleSlope"), file.get("RescaleIntercept")
    if slope is None or intercept is None or not float(slope):
        return stored
    return stored * float(slope) + float(intercept)


def _by_its_window(values: npt.NDArray[Any], seen: npt.NDArray[Any], file: Any) -> npt.NDArray[np.float32] | None:
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
        check_contrast(shown[some(seen, LOOKED_AT)])
    except InputError:
        return None
    return shown


def _window(values: npt.NDArray[np.float64], file: Any) -> npt.NDArray[np.float64] | None:
    """Returns where values are in the first window, 0 at its dark end and 1 at its bright one (PS3.3 C.11.2.1.2)."""
    center, width = (first_of(file.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(first_of(file.get("VOILUTFunction")) or "LINEAR").upper()
    if center is None or width is None or float(width) < (1 if function == "LINEAR" else 1e-9):
        return None
    center, width = float(center), float(width)
    if function == "SIGMOID":
        shares: npt.NDArray[np.float64] = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
        return shares
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5


def first_of(value: Any) -> Any:
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
    across, down = directions(file)
    if across in {"H", "F"} and down not in {"H", "F"}:
        pixels, across, down = pixels.T, down, across
    if down == "H":
        pixels = pixels[::-1]
    if across == "R":
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def directions(file: Any) -> tuple[str, str]:
    """Returns where rows and columns go: L, R, A, P, H or F each; "" where the file doesn't say."""
    said = file.get("PatientOrientation")
    if not isinstance(said, MultiValue) or len(said) != 2:
        return "", ""
    across, down = (str(each).strip()[:1].upper() for each in said)
    return across, down
