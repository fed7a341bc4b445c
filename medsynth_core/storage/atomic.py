"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from medsynth_core.errors import DiskError, InputError, MedsynthError, StoreError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a file system says when it can't take what is written."""


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        StoreError: the folder can't be written, or its disk is full.
    """
    with _refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def replace_directory(target: Path) -> Iterator[Path]:
    """Yields an empty sibling folder that takes ``target``'s place when the block ends without an error.

    Whenever it is killed, ``target`` is the old folder whole, the new one whole, or absent: the old one is renamed
    aside, the new one into its place, and only then is the old one removed. Between the two renames ``target`` is
    absent to its readers, and the next call puts the old one back before it begins. That call also removes what killed
    ones left beside ``target``. One call at a time may work on a ``target``.

    Raises:
        StoreError: the folder can't be written, or its disk is full.
    """
    target = target.resolve()
    aside = target.parent / f".{target.name}.old"
    with _refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _settle(target, aside)
    with _partial(target) as fresh:
        yield fresh
        with _refusal(target):
            if target.exists():
                target.rename(aside)
            fresh.rename(target)
            _settle(target, aside)


@contextmanager
def create_directory(target: Path) -> Iterator[Path]:
    """Yields an empty sibling folder that becomes ``target`` when the block ends without an error.

    Raises:
        InputError: ``target`` exists and isn't an empty folder; it is left as it is.
        StoreError: the folder can't be written, or its disk is full.
    """
    with _refusal(target):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(f"{target}: exists and isn't an empty folder; choose another place")
        target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as fresh:
        yield fresh
        with _refusal(target):
            if target.exists():
                target.rmdir()
            fresh.rename(target)


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Yields a new folder beside ``target``, having removed those of killed runs; removes it unless it was renamed."""
    with _refusal(target):
        for leftover in target.parent.glob(f".{escape(target.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = _new(target)
    try:
        with full_disk(target):
            yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _settle(target: Path, aside: Path) -> None:
    """Ends what a killed ``replace_directory`` left: an old folder aside goes back when nothing took its place.

    It gets the name of an unfinished one before it is removed, so that what is called old is always whole.
    """
    if not aside.exists():
        return
    if not target.exists():
        aside.rename(target)
        return
    doomed = _new(target)
    aside.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _new(target: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    folder.chmod(0o755)
    return folder


@contextmanager
def _refusal(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a StoreError."""
    try:
        yield
    except OSError as error:
        kind = DiskError if error.errno in NO_ROOM else StoreError
        raise kind(_refused(path, error.strerror)) from error


@contextmanager
def full_disk(path: Path | None = None) -> Iterator[None]:
    """Turns what any writer says of a full or read-only disk into a DiskError; other errors pass.

    numpy gives no error number ("1024 requested and 512 written"), and safetensors raises an error of its own.

    Args:
        path: what is written, for the message; None: the file that the error names.

    Raises:
        DiskError: the disk is full, or can only be read.
    """
    try:
        yield
    except MedsynthError:
        raise
    except Exception as error:
        said = no_room(error)
        if said is None:
            raise
        raise DiskError(_refused(path or getattr(error, "filename", None) or "a file", said)) from error


def no_room(error: Exception) -> str | None:
    """Returns what an error says of a full or read-only disk, or None when it is of something else."""
    number = getattr(error, "errno", None)
    if number in NO_ROOM:
        return os.strerror(number)
    if isinstance(error, OSError) and number is None and str(error).endswith(" written"):
        return os.strerror(errno.ENOSPC)
    return next((text for text in map(os.strerror, NO_ROOM) if text in str(error)), None)


def _refused(path: Path | str, reason: str | None) -> str:
    return f"{path}: can't be written ({reason}); make room or choose another place"
