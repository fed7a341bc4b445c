"""Finding of image files by the names that tables give them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import IO

from medsynth_core.corpus.places import entries, on_disk, opened, place_of, unpacking
from medsynth_core.errors import InputError

_TRIED = 2000
"""Names that are looked for before a folder counts as another's."""


def found(path: Path) -> Path:
    """Returns a file that may be spelt in another Unicode form on disk.

    Raises:
        InputError: it isn't there, which names one whose name is nearly the same; or it is a folder.
    """
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise InputError(f"no name of a file ({error.strerror})") from error
    if path.is_dir():
        raise InputError("a folder, not an image")
    if path.is_symlink():
        raise InputError(f"a link to {path.readlink()}, which isn't there")
    names = _names(path.parent)
    same = names.get(unicodedata.normalize("NFC", path.name))
    if same is not None:
        return path.parent / same
    close = [name for name in names.values() if Path(name).stem.casefold() == path.stem.casefold()]
    close = close or [name for name in names.values() if Path(name).stem.casefold() == path.name.casefold()]
    raise InputError(f"image not found{f'; there is {close[0]!r}' if close else ''}")


def opened_film(path: Path) -> IO[bytes]:
    """Returns an image file opened for reading, which may be spelt in another Unicode form where it lies.

    Raises:
        InputError: as ``found``, or it is damaged in its archive.
        StoreError, TransientError: S3 refuses it or can't be reached.
        OSError: it can't be read.
    """
    if on_disk(path):
        return opened(found(path))
    try:
        return opened(path)
    except OSError:
        return opened(found(path))


@lru_cache(maxsize=4096)
def _names(folder: Path) -> dict[str, str]:
    """Returns the names in a folder by their composed form."""
    if not folder.is_dir():
        return {}
    return {unicodedata.normalize("NFC", name): name for name, _ in entries(folder)}


def image_place(folder: Path, given: str | None) -> Path:
    """Returns where images are looked for: ``corpus.images``, else an archive's folder.

    Raises:
        InputError: it is no folder.
    """
    place = folder if given is None else place_of(given)
    if not place.is_dir():
        setting = "corpus.path" if given is None else "corpus.images"
        raise InputError(f"{place}: {setting} is not a folder{unpacking(place)}")
    return place


def image_folder(candidates: Iterable[Path], given: str | None, names: Iterable[str]) -> Path | None:
    """Returns the folder that image paths are relative to: the given one, else the first candidate with one of them.

    Raises:
        InputError: the given folder doesn't exist, or holds none of ``names``.
    """
    if given is not None:
        candidates = [image_place(Path(given), given)]
    wanted = [name for name in dict.fromkeys(names) if name]
    for folder in candidates:
        if any(missing(folder, name) is None for name in wanted[:_TRIED]):
            return folder
    if given is not None and wanted:
        raise InputError(
            f"{given}: none of {len(wanted)} images is there, e.g. {wanted[0]!r} ({missing(Path(given), wanted[0])}); "
            f"correct corpus.images"
        )
    return None


def missing(folder: Path, name: str) -> str | None:
    """Returns why an image isn't found in a folder; None where it is."""
    try:
        found(inside(folder, name))
    except InputError as error:
        return str(error)
    return None


def inside(folder: Path, name: str) -> Path:
    """Returns the path of an image that a table names relative to a folder; Windows' way of writing it is read, too.

    Raises:
        InputError: it leads out of the folder.
    """
    path = folder / name
    if "\\" in name and not path.exists():
        windows = PureWindowsPath(name)
        if windows.drive:
            raise InputError(f"a path of another machine ({windows.drive}); name images relative to corpus.images")
        path = folder / windows.as_posix()
    if ".." in path.relative_to(folder).parts if path.is_relative_to(folder) else True:
        raise InputError(f"image path leaves its folder {folder}; set corpus.images to one that holds all of them")
    return path
