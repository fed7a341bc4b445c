"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from medsynth_core.errors import InputError, StoreError


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        StoreError: the folder can't be written.
    """
    with _refusal(path.parent):
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

    A kill leaves ``target`` as it was (or, within the instant of the two renames, absent): a stage's output
    is never half written. Leftovers of killed runs are removed by the next one.

    Raises:
        StoreError: the parent folder can't be written.
    """
    fresh = _sibling(target)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)


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
        fresh = _sibling(target)
        try:
            yield fresh
            if target.exists():
                target.rmdir()
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _sibling(target: Path) -> Path:
    """Returns a new folder beside ``target``, having removed those of killed runs."""
    with _refusal(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{escape(target.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
        fresh.chmod(0o755)
    return fresh


@contextmanager
def _refusal(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: can't be written ({error.strerror}); choose another place") from error
