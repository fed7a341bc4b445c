"""Folders and files that are killed, or run out of room, while they are written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from medsynth_core.errors import StoreError
from medsynth_core.storage.atomic import create_directory, replace_directory, write_bytes_atomically

pytestmark = pytest.mark.integration

_FILES = 2000
_REPLACE = f"""
import sys, time
from pathlib import Path
from medsynth_core.storage.atomic import replace_directory

target = Path(sys.argv[1])
with replace_directory(target) as folder:
    for number in range({_FILES}):
        (folder / str(number)).write_text(sys.argv[2])
    print("written", flush=True)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def state(target: Path) -> str | None:
    """Returns what all files of a folder hold, or None when it isn't there."""
    if not target.exists():
        return None
    texts = [path.read_text() for path in target.iterdir()]
    assert len(texts) == _FILES, "a part of a folder"
    assert len(set(texts)) == 1, "two folders in one"
    return texts[0]


def leave(target: Path, text: str) -> None:
    with replace_directory(target) as folder:
        for number in range(_FILES):
            (folder / str(number)).write_text(text)


def test_a_kill_leaves_the_old_folder_or_the_new_one_or_none(tmp_path: Path) -> None:
    """Kills fall into the instants after the last file is written: the renames, and the removal of 2,000 files."""
    target, seen = tmp_path / "out", set()
    draw = random.Random(0)
    leave(target, "0")
    for turn in range(1, 16):
        before = state(target)
        child = subprocess.Popen([sys.executable, "-c", _REPLACE, str(target), str(turn)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        time.sleep(draw.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        after = state(target)
        assert after in {before, str(turn), None}
        seen.add("new" if after == str(turn) else "none" if after is None else "old")
        if after is None:
            leave(target, str(turn))
    assert "new" in seen, "no kill fell after the renames"
    leave(target, "last")
    assert state(target) == "last"
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what killed runs left is removed by the next one"


@pytest.mark.parametrize("killed_at", range(1, 5))
def test_a_kill_at_each_rename(tmp_path: Path, killed_at: int) -> None:
    """The first rename takes the old folder away, the second brings the new one, the third marks the old as rubbish."""
    target = tmp_path / "out"
    leave(target, "old")
    script = (
        "import os, pathlib\n"
        f"left, rename = [{killed_at}], pathlib.Path.rename\n"
        "def counted(*arguments):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), 9)\n"
        "    return rename(*arguments)\n"
        "pathlib.Path.rename = counted\n"
    )
    done = subprocess.run([sys.executable, "-c", script + _REPLACE, str(target), "new"], capture_output=True)
    assert done.returncode == (-signal.SIGKILL if killed_at < 4 else 0)
    assert state(target) == {1: "old", 2: None, 3: "new", 4: "new"}[killed_at]
    with pytest.raises(ZeroDivisionError), replace_directory(target):
        raise ZeroDivisionError
    assert state(target) == ("old" if killed_at < 3 else "new"), "the next call puts back what was taken away"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((2, 1024, 1024), np.uint8))


def weights(folder: Path) -> None:
    save_file({"a": np.zeros(2 * 2**20, np.uint8)}, folder / "model.safetensors")


def table(folder: Path) -> None:
    pq.write_table(pa.table({"a": [os.urandom(2 * 2**20)]}), folder / "rows.parquet")


def text(folder: Path) -> None:
    (folder / "report.html").write_text("." * 2 * 2**20)


def picture(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (2048, 1024), dtype=np.uint8)).save(folder / "a.png")


@pytest.mark.parametrize("write", [images, weights, table, text, picture])
def test_a_stage_on_a_full_disk_says_so_in_one_line(small_disk: Path, write: Callable[[Path], None]) -> None:
    target = small_disk / "out"
    with replace_directory(target) as folder:
        (folder / "a").write_text("old")
    for building in (replace_directory(target), create_directory(small_disk / "other")):
        with (
            pytest.raises(StoreError, match=r"(out|other): can't be written \(No space left") as caught,
            building as folder,
        ):
            write(folder)
        assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir()] == ["out"]
    assert (target / "a").read_text() == "old"


def test_a_file_on_a_full_disk_keeps_its_old_bytes(small_disk: Path) -> None:
    path = small_disk / "checkpoint"
    write_bytes_atomically(path, b"old")
    with pytest.raises(StoreError, match=r"checkpoint: can't be written \(No space left"):
        write_bytes_atomically(path, bytes(2 * 2**20))
    assert path.read_bytes() == b"old"
    assert [each.name for each in small_disk.iterdir()] == ["checkpoint"]


def test_a_disk_that_became_read_only(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only"):
        write_bytes_atomically(small_disk / "a", b"")
    with pytest.raises(StoreError, match="Read-only"), replace_directory(small_disk / "b"):
        pass


def test_an_error_of_a_stage_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_directory(tmp_path / "out"):
        (tmp_path / "none").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_target_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    for text in ("a", "b"):
        with replace_directory(tmp_path / "link") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "out" / "x").read_text() == "b"
