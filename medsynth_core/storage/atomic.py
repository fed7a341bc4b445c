"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsynth_core.errors import StoreError


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        StoreError: the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StoreError(f"{path.parent}: can't be written ({error.strerror}); choose another place") from error
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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        fresh.chmod(0o755)
    except OSError as error:
        raise StoreError(f"{target.parent}: can't be written ({error.strerror}); choose another place") from error
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
