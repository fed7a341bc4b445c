"""Reading of grayscale images and their two value ranges.

``image_u8`` is uint8 in 0..255; ``pixels`` is float32 in [-1, 1] with pixels = image_u8 / 127.5 - 1.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from medsynth_core.corpus.files import opened_film
from medsynth_core.corpus.records import ORGANS, ImageU8, MaskU8, Pixels
from medsynth_core.errors import InputError

P = TypeVar("P", bound=Pixels)

_GREY = frozenset({"1", "L", "P", "RGB", "YCbCr", "CMYK"})
_WITH_ALPHA = frozenset({"LA", "PA", "RGBA", "La", "RGBa"})
_WIDEST = 4.0
"""Longer side over shorter side of what may be a film."""
_SMALLEST = 0.25
"""Shorter side over ``corpus.image_size`` of what may be one."""
_FLAT = 4
"""Levels of 255 between the darkest and the brightest hundredth of a picture that shows nothing."""
_DARKEST, _BRIGHTEST = 0.001, 0.995
"""Quantiles that become black and white of a film of more than 8 bits without a window: markers are brighter."""
_LEVELS = 1 << 16
_BY_BLOCKS = frozenset({"L", "RGB", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_REDUCED = 2
"""A film is decoded at, or at once reduced to, no less than this many times the side that is wanted."""
_GAP = 2.0
LOOKED_AT, COUNTED = 256, 1024
"""Rows and columns that tell a film's contrast, and its window."""
_ORIENTATION = 0x0112
"""EXIF's tag."""
_MARK_AT, _MARK = 128, b"DICM"
_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a DICOM file without a preamble begins: its first element's group."""


def load_film(path: Path, max_pixels: int, size: int, whole: bool = False) -> Pixels:
    """Returns a film as it hangs: uint8 or float32 [height, width] in 0..255, air dark.

    A picture of more than 8 bits is windowed from its thousandth to its brightest two hundredth; EXIF's orientation is
    obeyed, what is transparent is black. DICOM is read as ``dicom.load_dicom`` does.

    Args:
        max_pixels: larger ones are refused before they are decoded.
        size: side of the square that it will become.
        whole: whether it keeps its own size, where a large one is else reduced to no less than twice ``size``.

    Raises:
        InputError: the file is missing, not an image, damaged, flat, tiny, far from square or above ``max_pixels``.
    """
    with opened_image(path) as stream:
        return _decode_film(stream, str(path), max_pixels, size, whole)


def load_film_bytes(data: bytes, source: str, max_pixels: int, size: int, whole: bool = False) -> Pixels:
    """Returns a film of an image file's bytes, as ``load_film`` of the file.

    Args:
        source: what an error message calls it.

    Raises:
        InputError: as ``load_film``.
    """
    return _decode_film(io.BytesIO(data), source, max_pixels, size, whole)


def _decode_film(stream: IO[bytes], source: str, max_pixels: int, size: int, whole: bool) -> Pixels:
    if begins_as_dicom(stream):
        from medsynth_core.corpus.dicom import decode_dicom

        return decode_dicom(stream, source, max_pixels, size, whole)
    return _decode(stream, source, max_pixels, partial(_film, size=size, whole=whole))


def _film(image: Image.Image, size: int, whole: bool) -> Pixels:
    check_shape(image.width, image.height, size)
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{image.n_frames} frames in one file; a film has one")
    if not whole:
        image.draft("L", (_REDUCED * size, _REDUCED * size))
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if not whole:
        image = _reduced(image, size)
    pixels = _grey(image) if image.mode in _GREY | _WITH_ALPHA else windowed(np.asarray(image))
    check_contrast(pixels)
    return pixels


def load_mask(path: Path, max_pixels: int) -> MaskU8:
    """Returns a mask of organs, uint8 [height, width] with the numbers of ``records.ORGANS``.

    Raises:
        InputError: as ``load_film``, or the file isn't 8 bits a pixel or holds another number.
    """

    def numbers(image: Image.Image) -> MaskU8:
        wanted = ", ".join(f"{number} {organ}" for number, organ in enumerate(("none", *ORGANS)))
        if image.mode not in {"L", "P"}:
            raise InputError(f"a mask has 8 bits a pixel ({wanted}); found an image of mode {image.mode}")
        mask = np.asarray(image)
        if mask.max(initial=0) > len(ORGANS):
            raise InputError(f"a mask holds the numbers {wanted}; found {mask.max()}")
        return mask

    with opened_image(path) as stream:
        return _decode(stream, str(path), max_pixels, numbers)


def begins_as_dicom(stream: IO[bytes]) -> bool:
    """Returns whether a file begins as DICOM's do, with a preamble or without one; it is left at its beginning."""
    begins = stream.read(_MARK_AT + len(_MARK))
    stream.seek(0)
    return begins[_MARK_AT:] == _MARK or (begins[:2] in _GROUPS and len(begins) > _MARK_AT)


@contextmanager
def opened_image(path: Path) -> Iterator[IO[bytes]]:
    """Opens an image file; whatever is found to be wrong with it is an InputError that begins with its path."""
    try:
        with opened_film(path) as stream:
            yield stream
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _decode(stream: IO[bytes], source: str, max_pixels: int, decode: Callable[[Image.Image], P]) -> P:
    try:
        if not stream.seek(0, io.SEEK_END):
            raise InputError("the file is empty")
        stream.seek(0)
        with Image.open(stream) as image:
            check_pixels(image.width, image.height, max_pixels)
            return decode(image)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{source}: not a readable image ({_plain(error)})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{source}: refused, its header claims too many pixels ({error})") from error


def _plain(error: Exception) -> str:
    """Returns an error's text without the stream that Pillow names in it."""
    return " ".join(re.sub(r" <_io[^>]*>", "", str(error)).split())


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises InputError for an image that is too large to be decoded."""
    if width * height > max_pixels:
        raise InputError(f"{width}x{height} pixels exceed corpus.max_image_pixels={max_pixels}")


def check_shape(width: int, height: int, size: int) -> None:
    """Raises InputError for a shape that no film of a chest has."""
    short, long = sorted((width, height))
    if short < _SMALLEST * size:
        raise InputError(f"{width}x{height} pixels are too few for corpus.image_size={size}")
    if long > _WIDEST * short:
        raise InputError(f"{width}x{height} pixels: far from square, so it is no film of a chest")


def check_contrast(pixels: Pixels) -> None:
    """Raises InputError for a picture that shows nothing."""
    dark, bright = np.quantile(some(pixels, LOOKED_AT), [0.01, 0.99])
    if bright - dark < _FLAT:
        raise InputError(f"flat: nearly every pixel is {round(float(bright))} of 255")


def block_side(width: int, height: int, size: int) -> int:
    """Returns the side of the square blocks whose means are enough of a film that becomes a square of ``size``."""
    return max(1, min(width, height) // (_REDUCED * size))


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """Returns a large image by means of square blocks, in its own depth, no smaller than is needed."""
    factor = block_side(image.width, image.height, size)
    if factor == 1 or image.mode not in _BY_BLOCKS:
        return image
    return (image.convert("I") if image.mode.startswith("I;16") else image).reduce(factor)


def some(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Returns values of evenly spaced rows and columns, about ``side`` of each."""
    return values[:: max(1, values.shape[0] // side), :: max(1, values.shape[1] // side)]


def _grey(image: Image.Image) -> ImageU8:
    """Returns an image of 8 bits a channel in grey; what is transparent is black."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode not in _WITH_ALPHA:
        return np.asarray(image.convert("L"))
    image = image.convert("RGBA" if "RGB" in image.mode or image.mode == "PA" else "LA")
    alpha, colour = np.asarray(image.getchannel("A")), np.asarray(image.convert("RGB").convert("L"))
    if np.ptp(colour) < _FLAT <= np.ptp(alpha):
        raise InputError("its picture is in the transparency alone; save it without an alpha channel")
    return np.rint(colour * (alpha / 255.0)).astype(np.uint8) if alpha.min() < 255 else colour


def windowed(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns grey values of any range as float32 in 0..255, from their thousandth to their brightest two hundredth.

    Raises:
        InputError: they aren't one channel of finite numbers.
    """
    if values.ndim != 2:
        raise InputError(f"expected one grey channel, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("some pixels are no number (NaN or infinite)")
    return stretched(values, *quantiles(some(values, COUNTED)))


def stretched(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """Returns values as float32 in 0..255, black up to ``low``, white from ``high``; black where both are one."""
    if high == low:
        return np.zeros(values.shape, dtype=np.float32)
    scaled = (values.astype(np.float32) - low) * np.float32(255.0 / (high - low))
    return np.clip(scaled, 0.0, 255.0, out=scaled)


def quantiles(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Returns what becomes black and white of values without a window; of integers by counting, which is many times
    faster than sorting."""
    if np.issubdtype(values.dtype, np.integer):
        lowest, highest = int(values.min()), int(values.max())
        if highest - lowest < _LEVELS:
            share = np.cumsum(np.bincount(values.ravel().astype(np.int64) - lowest)) / values.size
            return (
                lowest + float(np.searchsorted(share, _DARKEST)),
                lowest + float(np.searchsorted(share, _BRIGHTEST)),
            )
    low, high = np.quantile(values, [_DARKEST, _BRIGHTEST])
    return float(low), float(high)


def resize_and_crop(
    image: Pixels, size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> npt.NDArray[np.uint8]:
    """Returns the centre square, shorter side resized to ``size``, uint8 [size, size] (LLM-CXR); values are rounded
    last."""
    height, width = image.shape
    if height == width == size and image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resized = Image.fromarray(image).resize(
        (size, size),
        resampling,
        box=(left, top, left + side, top + side),
        reducing_gap=_GAP if resampling is Image.Resampling.LANCZOS else None,
    )
    values = np.asarray(resized)
    return values if values.dtype == np.uint8 else np.clip(np.rint(values), 0, 255).astype(np.uint8)


def to_pixels(image_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns float32 pixels in [-1, 1] of any shape.

    Raises:
        TypeError: the input isn't uint8.
    """
    if image_u8.dtype != np.uint8:
        raise TypeError(f"expected uint8 in 0..255, found {image_u8.dtype}")
    return image_u8.astype(np.float32) / 127.5 - 1.0
