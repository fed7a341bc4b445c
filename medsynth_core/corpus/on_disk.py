"""Images that are there, of an archive that may be downloaded in part."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from medsynth_core.corpus.places import opened
from medsynth_core.corpus.tables import Table
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)

_ENDINGS = (".png", ".jpg", ".jpeg", ".dicom", ".dcm", ".tif", ".tiff", ".bmp", ".webp")


class ImageFile(NamedTuple):
    """An image file.

    Attributes:
        name: in its folder.
    """

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / self.name

    @property
    def is_dicom(self) -> bool:
        """Whether it is called as DICOM's are."""
        return self.name.lower().endswith((".dicom", ".dcm"))


def image_key(name: str) -> str:
    """Returns an image's name without folder and ending, in composed Unicode: films are often converted."""
    file = name.replace("\\", "/").rpartition("/")[2]
    return unicodedata.normalize("NFC", file.rpartition(".")[0] or file)


def images_in(folders: Iterable[Path]) -> dict[str, ImageFile]:
    """Returns the image files that lie in some folders, by ``image_key``; the first counts where several have one.

    Each folder is listed once; whether a file can be read is seen when it is.

    Raises:
        InputError: a folder can't be listed.
    """
    files: dict[str, ImageFile] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        try:
            names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ENDINGS))
        except OSError as error:
            raise InputError(f"{folder}: can't be listed ({error.strerror})") from error
        for name in names:
            files.setdefault(image_key(name), ImageFile(folder, name))
    return files


def with_images(table: Table, column: str, images: Mapping[str, ImageFile], place: Path, advice: str = "") -> Table:
    """Returns the rows whose images are there, and those that name none; says how many others are left out.

    Args:
        column: names the images.
        place: where they were looked for.
        advice: what else may help where none is there.

    Raises:
        InputError: none is there.
    """
    names = table.column(column)
    kept = np.array([not name or image_key(name) in images for name in names], dtype=np.bool_)
    named = [name for name in names if name]
    n_missing = int((~kept).sum())
    if named and n_missing == len(named):
        there = f"there is {next(iter(images.values())).name!r}" if images else "no image is there"
        raise InputError(
            f"{table.path}: none of the {len(named)} images that it names is in {place}, e.g. {named[0]!r} ({there}); "
            f"{advice or 'set corpus.images to the folder that they are in'}"
        )
    if n_missing:
        log.warning("%s: %d of %d rows are left out, whose images aren't there", table.path, n_missing, len(names))
    return table.where(kept)


def size_of(path: Path) -> tuple[int, int] | None:
    """Returns an image's width and height by its header; None of DICOM and of what can't be read."""
    try:
        with opened(path) as stream, Image.open(stream) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
