"""Published archives as they lie on disk: their files, listed once, and the joins between their tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from medsynth_core.corpus.places import place_of, unpacking, walk
from medsynth_core.errors import InputError


def archive_folder(path: str | None, kind: str) -> Path:
    """Returns the folder that ``corpus.path`` names.

    Raises:
        InputError: it is no folder.
    """
    folder = place_of(path)
    if not folder.is_dir():
        what = f"a file{unpacking(folder)}" if folder.is_file() else "not there"
        raise InputError(f"{folder}: {what}; corpus.kind={kind} wants corpus.path to be the archive's folder")
    return folder


def files_below(folder: Path, depth: int | None = None, most: int | None = None) -> Iterator[str]:
    """Yields the files below a folder, relative to it with slashes: each folder's own before those of its folders.

    Hidden ones are left out, and so is a link that leads above itself.

    Args:
        depth: how many folders deep; to the end when None.
        most: folders that are looked into of each folder's; all when None.

    Raises:
        InputError: a folder can't be listed.
    """
    for place, names in walk(folder, depth, most):
        prefix = "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        yield from (prefix + name for name in names)


def nearest_file(folder: Path, files: Iterable[str], pattern: str) -> Path | None:
    """Returns the one file whose name is of a pattern, packed or not; None where there is none.

    Of several the one that is the fewest folders deep, and of one that is there both ways the one that isn't packed.

    Raises:
        InputError: several are equally near.
    """
    named = re.compile(rf"(?:{pattern})(?:\.gz)?")
    found = [name for name in files if named.fullmatch(name.rpartition("/")[2])]
    if not found:
        return None
    fewest = min(name.count("/") for name in found)
    near = {name.removesuffix(".gz"): name for name in sorted(found, reverse=True) if name.count("/") == fewest}
    if len(near) > 1:
        raise InputError(
            f"{folder}: both {' and '.join(sorted(near.values()))} are there; set corpus.path to one's folder"
        )
    return folder / next(iter(near.values()))


def check_join(path: Path, what: str, ids: Collection[str], others: Collection[str], where: str) -> None:
    """Raises InputError where none of some ids is among others, though there are some of both."""
    if ids and others and not any(each in others for each in ids):
        raise InputError(
            f"{path}: none of {len(ids)} {what} is in {where}: {min(ids)!r} here, {min(others)!r} there; are they "
            f"of one archive, with all their digits?"
        )
