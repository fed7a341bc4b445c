"""A corpus that is killed again and again ends in the bytes of one that isn't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure

pytestmark = [pytest.mark.integration, pytest.mark.slow]
FILMS, MADE, KILLS = 3200, 40, 10


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a table of films, three chunks and a bit, some of them damaged."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(MADE):
        film = phantom_study(0, number, 160).views[0].load()
        Image.fromarray(film.astype(np.uint16) * 250 if number % 3 else film).save(folder / f"made-{number}.png")
    for number in range(FILMS):
        (folder / f"{number}.png").hardlink_to(folder / f"made-{number % MADE}.png")
    for number in (7, 1500, 3100):
        (folder / f"{number}.png").unlink()
        (folder / f"{number}.png").write_bytes(b"no image")
    rows = "".join(f"Small effusion {number}.,{number}.png\n" for number in range(FILMS))
    (folder / "t.csv").write_text(f"text,filename\n{rows}")
    return folder / "t.csv"


def workspace(root: Path, table: Path) -> list[str]:
    """Makes a workspace and returns the command that reads its corpus."""
    init_workspace(root, configure(["corpus.kind=table", f"corpus.path={table}", "corpus.image_size=128"]))
    return [sys.executable, "-m", "medsynth_core.cli.main", "corpus", "--workspace", str(root)]


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data" / "corpus").iterdir())}


def test_ten_kills(table: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    subprocess.run(workspace(tmp_path / "whole", table), check=True, capture_output=True)
    took = time.monotonic() - began
    command = workspace(tmp_path / "killed", table)
    draw = np.random.default_rng(0)
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(float(draw.uniform(0.1, 0.9)) * took)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "corpus.skipped: 3" in done.stdout
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / "killed" / "data" / "corpus-partial").exists()
