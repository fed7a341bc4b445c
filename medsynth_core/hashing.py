"""Digests of files, folders and JSON values, and a cache of files' digests."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from medsynth_core.errors import InputError

_SETTLED_NS = 50_000_000
"""A file that was written less than this ago may be written again without its times telling: clocks of file systems
tick every few milliseconds."""
_BUSY_S = 5.0
"""How long a process waits for another one's write."""
_TABLE = """CREATE TABLE IF NOT EXISTS digests (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, sha256 TEXT
) WITHOUT ROWID"""


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``value`` (sorted keys, no spaces)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DigestCache:
    """Digests of files, kept in a SQLite file from run to run; any number of threads and processes may share it.

    A file counts as unchanged while path, size, modification and status-change time and inode are the same. Where the
    cache can't be read or written, files are hashed as if there were none.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Args:
        path: of the cache; None: nothing is kept.
        """
        self.path = path

    def file(self, path: Path) -> str:
        """Hex SHA-256 of a file's bytes."""
        return self.files([path])[0]

    def tree(self, path: Path, counts: Callable[[Path], bool] = lambda path: True) -> str:
        """Hex SHA-256 of a file, or of a folder's relative names and contents.

        Args:
            counts: which of a folder's files do.

        Raises:
            InputError: nothing is at ``path``.
        """
        if path.is_file():
            return self.file(path)
        if not path.is_dir():
            raise InputError(f"{path}: not found; run the stage that writes it first")
        found = sorted(p for p in path.rglob("*") if p.is_file() and counts(p))
        names = [p.relative_to(path).as_posix() for p in found]
        return sha256_json([list(pair) for pair in zip(names, self.files(found), strict=True)])

    def files(self, paths: list[Path]) -> list[str]:
        """Hex SHA-256 of each file's bytes."""
        stats = [path.stat() for path in paths]
        keys = [os.path.realpath(path) for path in paths]
        known = self._read(keys)
        digests, new = [], []
        for path, key, stat in zip(paths, keys, stats, strict=True):
            mark = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            *seen, digest = known.get(key, (None, ""))
            if tuple(seen) != mark:
                _let_settle(stat)
                began = time.time_ns()
                digest = sha256_file(path)
                if _is_settled(stat, began) and _same(path, mark):
                    new.append((key, *mark, digest))
            digests.append(digest)
        if new:
            self._write(new)
        return digests

    def _read(self, keys: list[str]) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        if self.path is None or not self.path.is_file():
            return found
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as table:
            for key in keys:
                row = table.execute(
                    "SELECT size, mtime_ns, ctime_ns, inode, sha256 FROM digests WHERE path = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = row
        return found

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        if self.path is None:
            return
        with suppress(sqlite3.Error, OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as table, table:
                table.execute(_TABLE)
                table.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", rows)


def _let_settle(stat: os.stat_result) -> None:
    """Waits until a file that was just written can be told from one that is written again, so that it needs hashing
    only once."""
    age = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns)
    if 0 <= age < _SETTLED_NS:
        time.sleep((_SETTLED_NS - age) / 1e9 + 0.001)


def _is_settled(stat: os.stat_result, began_ns: int) -> bool:
    return began_ns - max(stat.st_mtime_ns, stat.st_ctime_ns) >= _SETTLED_NS


def _same(path: Path, mark: tuple[int, int, int, int]) -> bool:
    """Returns whether a file is as it was before it was hashed."""
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) == mark
