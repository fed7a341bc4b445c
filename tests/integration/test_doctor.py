"""`medsynth doctor`: a line a check, and the exit code of what would stop a run first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medsynth_core.errors import ConfigError, StoreError, TransientError
from medsynth_core.workspace import doctor
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import load_config, write_config
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
CHECKS = ["packages", "tools", "compiler", "gpu", "prefect"]
OF_THE_WORKSPACE = ["parameters", "disk", "store", "clock", "models", "settings"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    init_workspace(tmp_path / "w", Config())
    return tmp_path / "w"


def failing(root: Path) -> dict[str, doctor.Finding]:
    return {found.name: found for found in doctor.examine(root) if found.exit_code}


def test_a_sound_machine_and_workspace(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medsynth_core.cli.main", "doctor", "--json", "-w", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in found] == CHECKS + OF_THE_WORKSPACE
    assert "a run will train classifier" in next(each["text"] for each in found if each["name"] == "models")


def test_what_is_wrong_has_its_own_code(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    write_config(root / "params.yaml", load_config(root / "params.yaml", [f"store.url={tmp_path}/a-file/store"]))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    wrong = failing(root)
    assert wrong["store"].exit_code == StoreError.exit_code
    assert wrong["prefect"].exit_code == TransientError.exit_code
    assert "http://127.0.0.1:9/api doesn't answer" in wrong["prefect"].text
    (root / "params.yaml").write_text("sed: 1\n")
    assert failing(root)["parameters"].exit_code == ConfigError.exit_code


def test_a_clock_that_is_off_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    write_config(
        root / "params.yaml",
        load_config(root / "params.yaml", ["store.url=s3://none/data", f"store.endpoint_url={s3_endpoint}"]),
    )
    assert "clock" not in failing(root)
    real = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + 3600)
    assert re.search(r"the clock is \+360[01] s off", failing(root)["clock"].text)


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1" if name == "pyarrow" else real(name))
    assert "pyarrow 0.0.1 (locked ==" in failing(root)["packages"].text
