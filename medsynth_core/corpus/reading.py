"""Reading of films by all cores: each becomes a square of ``corpus.image_size``, in the order of its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import joblib
import numpy as np
from PIL import Image

from medsynth_core.corpus.images import resize_and_crop
from medsynth_core.corpus.kept import KeptFilm
from medsynth_core.corpus.normalised import MASK_SIDE
from medsynth_core.corpus.records import BadRow, Box, ImageU8, MaskU8, Study, View
from medsynth_core.corpus.suspects.borders import Borders, trimmed
from medsynth_core.errors import InputError

_VIEWS_A_BATCH = 16
_ITEMS_A_BATCH = 64


class Film(NamedTuple):
    """What became of a view.

    Attributes:
        image: uint8 [size, size], None where it can't be read.
        mask: uint8 [64, 64], None where there is none.
        boxes: of findings, with x0, y0, x1, y1 in 0..1 of the square; those outside it are left out.
        problems: why it, or its mask, can't be read.
        trimmed: whether borders were trimmed.
    """

    image: ImageU8 | None
    mask: MaskU8 | None = None
    boxes: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    trimmed: bool = False


class Item(NamedTuple):
    """A row of a source with the views of it that are wanted.

    Attributes:
        fingerprints: of each view, taken before it is read.
        kept: the film of each that is kept from before.
    """

    row: Study | BadRow
    views: tuple[View, ...] = ()
    fingerprints: tuple[str, ...] = ()
    kept: tuple[KeptFilm | None, ...] = ()


def read_films(items: Iterable[Item], size: int, trim: bool, processes: int) -> Iterator[tuple[Item, list[Film]]]:
    """Yields items with their films, in order, a bounded number ahead; without their borders if ``trim``."""
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator", pre_dispatch=2 * processes)
    batches = parallel(joblib.delayed(_read_batch)(batch, size, trim) for batch in _batches(items))
    return chain.from_iterable(batches)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    views = 0
    for item in items:
        batch.append(item)
        views += len(item.views)
        if views >= _VIEWS_A_BATCH or len(batch) >= _ITEMS_A_BATCH:
            yield batch
            batch, views = [], 0
    if batch:
        yield batch


def _read_batch(batch: list[Item], size: int, trim: bool) -> list[tuple[Item, list[Film]]]:
    def films(item: Item) -> list[Film]:
        asked = zip(item.views, item.kept, strict=True)
        return [kept.film() if kept else read_film(view, size, trim) for view, kept in asked]

    return [(item, films(item)) for item in batch]


def read_film(view: View, size: int, trim: bool) -> Film:
    """Returns the film of a view; one is kept whatever is wrong with its mask."""
    try:
        pixels = view.load()
    except InputError as error:
        return Film(None, problems=(_reason(error, view),))
    whole, off = pixels.shape, Borders()
    if trim:
        pixels, off = trimmed(pixels)
    found = (_placed(box, off, pixels.shape) for box in view.boxes)
    film = Film(resize_and_crop(pixels, size), None, tuple(box for box in found if box is not None), (), any(off))
    if view.load_mask is None:
        return film
    try:
        return film._replace(mask=_mask(view.load_mask, whole, off))
    except InputError as error:
        return film._replace(problems=(_reason(error, view),))


def _reason(error: InputError, view: View) -> str:
    return str(error).removeprefix(f"{view.source}: ")


def _mask(load: Callable[[], MaskU8], shape: tuple[int, ...], off: Borders) -> MaskU8:
    mask = load()
    (height, width), (high, wide) = shape, mask.shape
    if mask.shape != shape:
        raise InputError(f"its mask has {wide}x{high} pixels, the image {width}x{height}")
    mask = mask[off.top : height - off.bottom, off.left : width - off.right]
    return resize_and_crop(mask, MASK_SIDE, Image.Resampling.NEAREST)


def _placed(box: Box, off: Borders, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Returns a box in the centre square of a film without its borders, None when it is outside."""
    height, width = shape
    side = min(height, width)
    left, top = off.left + (width - side) / 2, off.top + (height - side) / 2
    x0, x1 = np.clip((np.array([box.x, box.x + box.width]) - left) / side, 0, 1).tolist()
    y0, y1 = np.clip((np.array([box.y, box.y + box.height]) - top) / side, 0, 1).tolist()
    if x0 >= x1 or y0 >= y1:
        return None
    return {"name": box.name, "origin": box.origin, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
