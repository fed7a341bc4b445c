"""A workspace is data: Python that lies in one is never run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.repository import dvc

pytestmark = pytest.mark.integration


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with modules of the names that a run imports; each leaves a mark when it is run."""
    root = tmp_path / "w"
    init_workspace(root, configure(["runner.kind=threads"]))
    for name in ("flows/__init__", "flows/launch", "dvc/__init__", "dvc/__main__", "yaml", "medsynth_core/__init__"):
        path = root / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    return root


def test_a_run_does_not_run_what_lies_in_the_workspace(workspace: Path) -> None:
    command = [sys.executable, "-P", "-m", "medsynth_core.cli.main", "run", "--set", "models.path=nowhere"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False, env=os.environ)
    assert not (workspace.parent / "ran").exists(), (workspace.parent / "ran").read_text()
    assert done.returncode == 3, done.stderr
    assert "nowhere/vqgan: no model there" in done.stderr


def test_dvc_is_the_installed_one(workspace: Path) -> None:
    assert "Data Version Control" in dvc(workspace, "--help")
    assert not (workspace.parent / "ran").exists()
