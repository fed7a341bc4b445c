"""What infra/README.md promises of a schedule, with the locked packages: a run that nobody starts, starts and ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from medsynth_core.config import Paths
from medsynth_core.release import open_release
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
PREFECT = Path(sys.executable).parent / "prefect"
WAITED_S = 300
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def prefect(environment: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        [PREFECT, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def flow_runs(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the runs that a schedule made, the first due first."""
    request = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/flow_runs/filter",
        json.dumps({"sort": "EXPECTED_START_TIME_ASC"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return [run for run in found if run["auto_scheduled"]]


def test_a_schedule_starts_a_run_that_releases(
    trained: tuple[Config, Paths], prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    """SQLAlchemy 2.1 broke Prefect's scheduler without a word: a schedule was made, and no run ever."""
    root = tmp_path / "workspace"
    models = trained[0].models.model_copy(update={"path": "trained"})
    init_workspace(root, trained[0].model_copy(update={"models": models}))
    shutil.copytree(trained[1].root / "models", root / "trained")
    environment = prefect_environment | {"MEDSYNTH_HOME": str(REPOSITORY), "MEDSYNTH_WORKSPACE": str(root)}
    prefect(environment, "work-pool", "create", "medsynth", "--type", "process")
    prefect(environment, "--no-prompt", "deploy", "--all")
    prefect(environment, "deployment", "schedule", "create", "augment/workspace", "--cron", "* * * * *")
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [PREFECT, "worker", "start", "--pool", "medsynth"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + WAITED_S
            while not (runs := flow_runs(environment)) or runs[0]["state_type"] not in ENDED:
                assert worker.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, f"{runs[:1]}\n{log.read_text()[-4000:]}"
                time.sleep(1)
        finally:
            worker.terminate()
            worker.wait(60)
    assert runs[0]["state_type"] == "COMPLETED", log.read_text()[-4000:]
    assert runs[0]["start_time"] >= runs[0]["expected_start_time"]
    assert len(open_release(root, rev="synthetic-cxr-v1").dataset()) > 0
