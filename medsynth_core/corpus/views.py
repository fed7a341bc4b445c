"""Views of image files: their projections by any house's words, and their loading, which waits until it is time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from medsynth_core.corpus.files import inside
from medsynth_core.corpus.images import load_film, load_mask
from medsynth_core.corpus.records import Box, Pixels, Projection, View
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.errors import InputError

P = TypeVar("P", bound=Pixels)

_PROJECTIONS: dict[Projection, tuple[str, ...]] = {
    "PA": ("pa", "postero-anterior", "posteroanterior", "pa erect", "frontal pa", "posterior anterior"),
    "AP": ("ap", "antero-posterior", "anteroposterior", "ap erect", "ap upright", "portable", "ap axial"),
    "AP supine": ("ap supine", "supine", "ap horizontal", "ap portable supine", "ap semi-erect", "ap semi erect"),
    "frontal": ("frontal", "f", "front"),
    "lateral": (
        "lateral", "l", "ll", "rl", "lat", "left lateral", "right lateral", "lateral left", "lateral right",
        "lateral view", "lateral erect", "l lat", "xtable lateral", "cross-table lateral", "swimmers", "ap lateral",
    ),
}  # fmt: skip
_WORDS = {word: projection for projection, words in _PROJECTIONS.items() for word in words}


def projection_of(word: str) -> Projection:
    """Returns what a source's word for a projection means."""
    plain = " ".join(word.lower().replace("_", " ").split()).removesuffix(" view").removesuffix(" projection")
    return _WORDS.get(plain, "unknown")


def file_view(
    folder: Path,
    name: str,
    config: CorpusConfig,
    *,
    projection: str = "",
    mask: str = "",
    masks: Path | None = None,
    boxes: tuple[Box, ...] = (),
    manufacturer: str | None = None,
    pixel_spacing_mm: float | None = None,
) -> View:
    """Returns the view of one image file; what is wrong with it is told when it is loaded.

    Args:
        projection: the source's word.
        mask: file of its organs; "" when there is none.
        masks: folder of the masks; None: the images'.
    """
    known = projection_of(projection)
    most, size = config.max_image_pixels, config.image_size
    return View(
        view_id=Path(name.replace("\\", "/")).as_posix(),
        projection=known,
        source=str(folder / name),
        load=partial(_load, partial(load_film, max_pixels=most, size=size, whole=bool(boxes or mask)), folder, name),
        load_mask=partial(_load, partial(load_mask, max_pixels=most), masks or folder, mask) if mask else None,
        called=projection if known == "unknown" else "",
        manufacturer=manufacturer,
        pixel_spacing_mm=pixel_spacing_mm,
        boxes=boxes,
        files=(folder / name, *(((masks or folder) / mask,) if mask else ())),
    )


def _load(load: Callable[[Path], P], folder: Path, name: str) -> P:
    try:
        path = inside(folder, name)
    except InputError as error:
        raise InputError(f"{folder / name}: {error}") from error
    return load(path)
