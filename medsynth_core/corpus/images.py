"""Reading of grayscale images and their two value ranges.

``image_u8`` is uint8 in 0..255; ``pixels`` is float32 in [-1, 1] with pixels = image_u8 / 127.5 - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medsynth_core.corpus.records import ORGANS, ImageU8, MaskU8
from medsynth_core.errors import InputError


def load_grey(path: Path, max_pixels: int) -> ImageU8:
    """Returns an image file as uint8 [height, width]; 16-bit and float images are stretched to 0..255.

    Raises:
        InputError: the file is missing, not an image that Pillow reads, damaged, or above ``max_pixels``.
    """

    def grey(image: Image.Image) -> ImageU8:
        if image.mode in {"L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "YCbCr"}:
            return np.asarray(image.convert("L"))
        return _stretch(np.asarray(image, dtype=np.float64), path)

    return _load(path, max_pixels, grey)


def load_mask(path: Path, max_pixels: int) -> MaskU8:
    """Returns a mask of organs, uint8 [height, width] with the numbers of ``records.ORGANS``.

    Raises:
        InputError: as ``load_grey``, or the file isn't 8 bits a pixel or holds another number.
    """

    def numbers(image: Image.Image) -> MaskU8:
        wanted = ", ".join(f"{number} {organ}" for number, organ in enumerate(("none", *ORGANS)))
        if image.mode not in {"L", "P"}:
            raise InputError(f"{path}: a mask has 8 bits a pixel ({wanted}); found an image of mode {image.mode}")
        mask = np.asarray(image)
        if mask.max(initial=0) > len(ORGANS):
            raise InputError(f"{path}: a mask holds the numbers {wanted}; found {mask.max()}")
        return mask

    return _load(path, max_pixels, numbers)


def _load(path: Path, max_pixels: int, decode: Callable[[Image.Image], npt.NDArray[np.uint8]]) -> ImageU8:
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise InputError(
                    f"{path}: {image.width}x{image.height} pixels exceed corpus.max_image_pixels={max_pixels}"
                )
            return decode(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: image not found") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable image ({' '.join(str(error).split())})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: refused, its header claims too many pixels ({error})") from error


def resize_and_crop(
    image: ImageU8, size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> npt.NDArray[np.uint8]:
    """Returns the centre square, shorter side resized to ``size``, uint8 [size, size] (LLM-CXR)."""
    height, width = image.shape
    if height == width == size:
        return image
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    resized = Image.fromarray(image).resize((wide, high), resampling)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def to_pixels(image_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns float32 pixels in [-1, 1] of any shape.

    Raises:
        TypeError: the input isn't uint8.
    """
    if image_u8.dtype != np.uint8:
        raise TypeError(f"expected uint8 in 0..255, found {image_u8.dtype}")
    return image_u8.astype(np.float32) / 127.5 - 1.0


def _stretch(values: npt.NDArray[np.float64], path: Path) -> ImageU8:
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"{path}: expected one finite grey channel, found shape {values.shape}")
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint((values - low) / (high - low) * 255.0).astype(np.uint8)
