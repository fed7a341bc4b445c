"""A file is hashed once, and again as soon as it may have changed."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medsynth_core import hashing
from medsynth_core.hashing import DigestCache, sha256_file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    read: list[Path] = []

    def sha256(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(hashing, "sha256_file", sha256)
    return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    return folder


def test_an_unchanged_file_is_read_once(folder: Path, tmp_path: Path, hashed: list[Path]) -> None:
    first = DigestCache(tmp_path / "digests.sqlite").tree(folder)
    assert len(hashed) == 2
    assert DigestCache(tmp_path / "digests.sqlite").tree(folder) == first == DigestCache().tree(folder)
    assert len(hashed) == 4, "the cache has all, no cache none"


def test_new_bytes_under_an_old_size_and_time_are_seen(folder: Path, tmp_path: Path, hashed: list[Path]) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    first, times = cache.tree(folder), (folder / "a").stat()
    (folder / "a").write_text("z")
    os.utime(folder / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.tree(folder) != first
    assert hashed[2:] == [folder / "a"]
    (folder / "new").write_text("a")
    (folder / "new").replace(folder / "a")
    assert cache.tree(folder) == first


def test_a_file_that_is_still_written_is_not_remembered(
    folder: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a file system may not tick between two writes: the second one must be seen."""
    monkeypatch.setattr(hashing, "_let_settle", lambda stat: None)
    cache = DigestCache(tmp_path / "digests.sqlite")
    (folder / "a").write_text("y")
    first = cache.file(folder / "a")
    assert cache.file(folder / "a") == first
    assert len(hashed) == 2


@pytest.mark.parametrize("damage", ["text", "folder", "other table", "read-only"])
def test_a_cache_that_cannot_be_used_is_not(folder: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cache" / "digests.sqlite"
    path.parent.mkdir()
    if damage == "text":
        path.write_text("no database " * 100)
    elif damage == "folder":
        path.mkdir()
    elif damage == "other table":
        with sqlite3.connect(path) as table:
            table.execute("CREATE TABLE digests (a)")
    else:
        path.parent.chmod(0o500)
    assert DigestCache(path).tree(folder) == DigestCache().tree(folder) == DigestCache(path).tree(folder)
    path.parent.chmod(0o700)


def test_threads_share_it(folder: Path, tmp_path: Path) -> None:
    for number in range(40):
        (folder / str(number)).write_text(str(number))
    cache, want = DigestCache(tmp_path / "digests.sqlite"), DigestCache().tree(folder)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: cache.tree(folder), range(16))) == {want}
