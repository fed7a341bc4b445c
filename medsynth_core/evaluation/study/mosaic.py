"""The pictures of a study: all films side by side in one mosaic, cut into strips.

A strip holds the same rows of pixels of every film. So no file is of one film: there is neither a size in bytes, nor a
name, nor a place that could be a hint at what a film is.

Shapes: N films, S pixels a side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medsynth_core.corpus.records import ImageU8

_PIXELS_A_STRIP = 4_000_000
"""What any browser decodes."""


@dataclass(frozen=True)
class Mosaic:
    """All films, in the order in which they are shown, row by row.

    Attributes:
        side: of every film, in pixels.
        columns: films a row of the mosaic.
        height: rows of pixels that a strip holds of every film; the last strip may hold fewer.
        strips: PNGs, 8-bit grey, from the top rows of the films to the bottom ones.
    """

    side: int
    columns: int
    height: int
    strips: tuple[bytes, ...]


def make_mosaic(images_u8: Sequence[ImageU8]) -> Mosaic:
    """Returns the mosaic of images, uint8 [H, W] of any size; all are brought to the smallest side that occurs."""
    side = min(min(image.shape) for image in images_u8)
    films_NSS = np.stack([_resized(image, side) for image in images_u8])
    columns = math.isqrt(len(films_NSS) - 1) + 1
    empty = -len(films_NSS) % columns
    films_NSS = np.pad(films_NSS, ((0, empty), (0, 0), (0, 0)))
    height = max(1, min(side, _PIXELS_A_STRIP // (len(films_NSS) * side)))
    strips = [_side_by_side(films_NSS[:, top : top + height], columns) for top in range(0, side, height)]
    return Mosaic(side, columns, height, tuple(_png(strip) for strip in strips))


def _resized(image_u8: ImageU8, side: int) -> ImageU8:
    """Returns an image of ``side`` x ``side`` pixels; one that has this size as it is."""
    return np.asarray(Image.fromarray(image_u8).resize((side, side), Image.Resampling.LANCZOS))


def _side_by_side(rows_NhS: ImageU8, columns: int) -> ImageU8:
    n, height, side = rows_NhS.shape
    tiles = rows_NhS.reshape(n // columns, columns, height, side).swapaxes(1, 2)
    return tiles.reshape(n // columns * height, columns * side)


def _png(image_u8: ImageU8) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image_u8).save(sink, format="PNG", compress_level=9)
    return sink.getvalue()
