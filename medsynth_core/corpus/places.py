"""Where a corpus lies: a folder or file on disk, below an ``s3://`` address, or in a zip or tar that stays packed.

All of them are used as a ``pathlib.Path`` is; what isn't on disk is a ``UPath``, which acts like one.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from fsspec.compression import compr
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem
from fsspec.utils import infer_compression
from upath import UPath
from upath.implementations.tar import TarPath
from upath.implementations.zip import ZipPath
from upath.registry import register_implementation

from medsynth_core.errors import InputError

_S3 = "s3://"
_ARCHIVE = re.compile(r"(?P<archive>.+?\.(?:zip|tar))(?:/(?P<inner>.*))?", re.IGNORECASE)
_PACKED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_PACKED_TABLE = re.compile(r"\.(csv|tsv|txt)\.zip$", re.IGNORECASE)
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
"""What a damaged or encrypted member of an archive raises; NotImplementedError, a RuntimeError, of a compression that
isn't known."""
_HEAD = 1 << 18
"""Bytes that are asked for at once of a file of which only the beginning is wanted."""


class _Packed:
    """What a path in a zip and one in a tar have in common: each process opens the archive once."""

    __slots__ = ()

    @classmethod
    def _fs_factory(cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]) -> Any:
        archive = str(storage_options["fo"])
        stat = None if archive.startswith(_S3) else Path(archive).stat()
        return _opened_archive(archive, None if stat is None else (stat.st_size, stat.st_mtime_ns))

    def __str__(self) -> str:
        said = super().__str__()
        if getattr(self, "_relative_base", None) is not None:
            return said
        inner = self.path.strip("/")  # type: ignore[attr-defined]
        archive = str(self.storage_options["fo"])  # type: ignore[attr-defined]
        return f"{archive}/{inner}" if inner else archive


class InZip(_Packed, ZipPath):
    """A file or folder in a zip."""

    __slots__ = ()


class InTar(_Packed, TarPath):
    """A file or folder in a tar."""

    __slots__ = ()


_KINDS = {".zip": ("zip", InZip), ".tar": ("tar", InTar)}
register_implementation("zip", InZip, clobber=True)
register_implementation("tar", InTar, clobber=True)


def place_of(named: str | None) -> Path:
    """Returns the folder or file of a name: a path, ``s3://bucket/prefix``, a zip or tar, or a path into one.

    A zip or tar all of whose files lie in one folder is that folder; one that holds a single file, and a table that is
    called ``.csv.zip``, are files. Credentials, region and server of S3 are those of the ``AWS_*`` variables.

    Raises:
        InputError: an archive is damaged, or is a tar on S3.
        StoreError, TransientError: the bucket can't be read.
    """
    name = str(named)
    if name.startswith(_S3):
        return _on_s3(name)
    path = Path(name).expanduser()
    if path.exists():
        return _as_folder(path, str(path)) if path.is_file() else path
    for parent in path.parents:
        if parent.is_file() and _ARCHIVE.fullmatch(parent.name):
            return _root(str(parent)) / path.relative_to(parent).as_posix()
    return path


def unpacking(path: Path) -> str:
    """Returns what to do with a tar that is compressed, "" for anything else."""
    if not _PACKED_TAR.search(path.name):
        return ""
    return "; a compressed tar can't be read by places: uncompress it (a plain .tar is read as it is) or unpack it"


def on_disk(path: Path) -> bool:
    """Returns whether a path is one of this machine's own."""
    return not isinstance(path, UPath)


def opened(path: Path) -> IO[bytes]:
    """Returns a file opened for reading; one that isn't on disk is fetched whole.

    Raises:
        InputError: it is damaged in its archive.
        StoreError, TransientError: S3 refuses it or can't be reached.
        OSError: it isn't there or can't be read.
    """
    return path.open("rb") if on_disk(path) else io.BytesIO(_fetched(path))


def opened_in_parts(path: Path) -> IO[bytes]:
    """Returns a file opened for reading of which only some places are fetched; in a zip it is read whole.

    Raises:
        InputError, StoreError, TransientError, OSError: as ``opened``.
    """
    if on_disk(path) or isinstance(path, InZip):
        return opened(path)
    place = cast("UPath", path)
    with _ours(path):
        return cast("IO[bytes]", place.fs.open(place.path, "rb", block_size=_HEAD))


def opened_uncompressed(path: Path) -> IO[bytes]:
    """Returns a file opened for reading, and uncompressed where its name says that it is compressed.

    Raises:
        InputError, StoreError, TransientError, OSError: as ``opened``.
    """
    stream = opened_in_parts(path)
    compression = infer_compression(path.name)
    return stream if compression is None else cast("IO[bytes]", compr[compression](stream, mode="r"))


def entries(folder: Path) -> list[tuple[str, bool]]:
    """Returns what lies in a folder by name, each with whether it is a folder itself.

    Raises:
        InputError: it can't be listed.
    """
    try:
        if on_disk(folder):
            with os.scandir(folder) as found:
                return sorted((entry.name, entry.is_dir()) for entry in found)
        place = cast("UPath", folder)
        with _ours(folder):
            listed = place.fs.ls(place.path, detail=True)
    except OSError as error:
        raise InputError(f"{folder}: can't be listed ({error.strerror or error})") from error
    own = place.path.rstrip("/")
    named = {str(each["name"]).rstrip("/"): each["type"] == "directory" for each in listed}
    return sorted((name.rpartition("/")[2], is_folder) for name, is_folder in named.items() if name != own)


def walk(top: Path, depth: int | None = None, most: int | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yields each folder from a place down, with the names of its files; hidden ones are left out.

    Links to folders are followed where ``depth`` bounds it, but for those that lead above themselves.

    Args:
        depth: how many folders deep; to the end when None.
        most: folders that are looked into of each folder's; all when None.

    Raises:
        InputError: a folder can't be listed.
    """
    shown = [each for each in entries(top) if not each[0].startswith(".")]
    yield top, [name for name, is_folder in shown if not is_folder]
    if depth == 0:
        return
    folders = (top / name for name, is_folder in shown if is_folder)
    for folder in islice((each for each in folders if _goes_down(each, depth is not None)), most):
        yield from walk(folder, None if depth is None else depth - 1, most)


def _goes_down(folder: Path, links: bool) -> bool:
    if not on_disk(folder) or not folder.is_symlink():
        return True
    return links and not folder.parent.resolve().is_relative_to(folder.resolve())


def version_of(path: Path) -> tuple[Any, ...]:
    """Returns what changes when a file does: its size, and its time of change or what its archive or store has of it.

    Raises:
        OSError: it isn't there.
    """
    if on_disk(path):
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    place = cast("UPath", path)
    with _ours(path):
        said = place.fs.info(place.path)
    return said.get("size"), str(said.get("ETag") or said.get("CRC") or said.get("mtime"))


def _fetched(path: Path) -> bytes:
    place = cast("UPath", path)
    with _ours(path):
        return bytes(place.fs.cat_file(place.path))


class _ours:  # noqa: N801 - used like a function
    """Turns what archives and S3 raise into one line; what a missing file raises stays."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError):
            return
        if isinstance(error, _BROKEN):
            raise InputError(f"{self._path}: damaged in its archive ({' '.join(str(error).split())})") from error
        address = str(self._path)
        if error is not None and address.startswith(_S3):
            # here, for the processes that decode films on disk needn't hold it
            from botocore.exceptions import ClientError

            from medsynth_core.storage.s3_errors import FAILURES, MISSING, as_ours, code_of

            bucket, _, key = address.removeprefix(_S3).partition("/")
            cause = error.__cause__ if isinstance(error, OSError) and error.__cause__ is not None else error
            is_missing = isinstance(cause, ClientError) and code_of(cause) in MISSING
            if isinstance(cause, FAILURES) and not is_missing:
                raise as_ours(cause, f"{_S3}{bucket}", key, bucket) from error


def _on_s3(name: str) -> Path:
    """Returns a place on S3; what is below a folder is listed at once, for a question a file would take hours."""
    packed = _ARCHIVE.fullmatch(name)
    if packed is not None and name[packed.end("archive") :][:1] in {"", "/"}:
        if packed["archive"].lower().endswith(".tar"):
            raise InputError(f"{name}: a tar on S3 can't be read by places; download it, or put its files there")
        root = _root(packed["archive"])
        return root / packed["inner"] if packed["inner"] else _whole(root)
    place = UPath(name.rstrip("/"))
    with _ours(name):
        place.fs.invalidate_cache()
        if not place.fs.isfile(place.path):
            place.fs.find(place.path)
    return cast("Path", place)


def _as_folder(path: Path, name: str) -> Path:
    """Returns an archive as the folder that it is, any other file as it is."""
    if not _ARCHIVE.fullmatch(path.name) or _PACKED_TABLE.search(path.name):
        return path
    whole = _whole(_root(name))
    return whole if whole.is_dir() else path


def _root(archive: str) -> Path:
    protocol, kind = _KINDS[archive[-4:].lower()]
    return cast("Path", kind("", protocol=protocol, fo=archive))


def _whole(root: Path) -> Path:
    """Returns the one folder or file at the top of an archive, where that is all of it."""
    shown = [name for name, _ in entries(root) if not name.startswith((".", "__MACOSX"))]
    return root / shown[0] if len(shown) == 1 else root


@lru_cache(maxsize=8)
def _opened_archive(archive: str, version: tuple[int, int] | None) -> Any:
    """Returns the file system of an archive.

    Raises:
        InputError: it is cut off, damaged or no archive.
    """
    try:
        return ZipFileSystem(archive) if archive.lower().endswith(".zip") else TarFileSystem(archive)
    except (*_BROKEN, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: cut off or damaged ({reason}); make or download it again") from error
