"""Disks that are full or read-only, under the real commands: one line, an exit code of its own, no work thrown away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medsynth_core.config import Paths
from medsynth_core.errors import DiskError
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture
def disk(limited_disk: Callable[[str], Path]) -> Path:
    """A file system of its own, of 4 MB."""
    return limited_disk("4m")


def workspace(trained: tuple[Config, Paths], root: Path, store: str, shard_images: int = 2) -> Path:
    tiny = trained[0]
    changes = {
        "models": tiny.models.model_copy(update={"path": str(trained[1].root / "models")}),
        "store": tiny.store.model_copy(update={"url": store}),
        "synthesis": tiny.synthesis.model_copy(update={"shard_images": shard_images}),
        "runner": tiny.runner.model_copy(update={"in_flight": 1}),
    }
    init_workspace(root, tiny.model_copy(update=changes))
    return root


def fill(folder: Path, left: int) -> None:
    """Leaves so many bytes of a file system."""
    (folder / "ballast").write_bytes(bytes(shutil.disk_usage(folder).free - left))


def run(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medsynth_core.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


@pytest.mark.slow
def test_a_store_that_fills_up_stops_the_run(
    trained: tuple[Config, Paths], disk: Path, tmp_path: Path, prefect_environment: dict[str, str]
) -> None:
    """Shards that can't be stored aren't made one after the other, and aren't counted as made."""
    root = workspace(trained, tmp_path / "w", str(disk / "store"))
    done = run("run", "-w", str(root), environment=prefect_environment)
    assert done.returncode == 0, done.stderr[-3000:]
    made = sorted((disk / "store" / "runs").glob("*/shards/*.json"))
    for record in made[3:]:
        record.unlink()
    shutil.rmtree(disk / "store" / "files")
    shutil.rmtree(root / "data" / "synthesis")
    fill(disk, 60_000)
    done = run("run", "-w", str(root), environment=prefect_environment)
    assert done.returncode == DiskError.exit_code, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: store {disk / 'store'}: files/md5/"), done.stderr[-3000:]
    assert last.endswith("No space left on device; make room, or set store.url to another disk")
    assert "Traceback" not in done.stderr
    begun = {line.split("'")[1] for line in done.stderr.splitlines() if "Task run 'shard-" in line}
    assert len(begun) < len(made) - 3, "what was left wasn't begun"


@pytest.mark.parametrize("command", ["corpus", "vocabulary", "prompts", "synthesis"])
def test_a_stage_says_so_in_one_line(trained: tuple[Config, Paths], disk: Path, tmp_path: Path, command: str) -> None:
    root = workspace(trained, disk / "w", str(tmp_path / "store"))
    if command != "corpus":
        for name in ("corpus", "vocabulary", "prompts"):
            shutil.copytree(trained[1][name], root / "data" / name)
    fill(disk, 0)
    done = run(command, "-w", str(root))
    assert done.returncode == DiskError.exit_code, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_workspace_that_can_only_be_read(trained: tuple[Config, Paths], disk: Path, tmp_path: Path) -> None:
    root = workspace(trained, disk / "w", str(tmp_path / "store"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for words in (["run"], ["corpus"], ["config", "set", "seed=2"]):
        done = run(*words, "-w", str(root))
        assert done.returncode == DiskError.exit_code, done.stderr[-3000:]
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
    assert json.loads(run("config", "show", "seed", "-w", str(root)).stdout.split(": ")[1]) == 0
