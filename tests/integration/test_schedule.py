"""What infra/README.md promises of a schedule, with the locked packages: a run that nobody starts, starts and ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.server import ask_prefect, serving_prefect
from medsynth_core.config import Paths
from medsynth_core.release import open_release
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
PREFECT = Path(sys.executable).parent / "prefect"
WAITED_S = 300
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a server that no other test uses: a schedule goes on making runs."""
    with serving_prefect(tmp_path) as environment:
        yield environment


def prefect(environment: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        [PREFECT, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def flow_runs(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the runs that a schedule made, the first due first."""
    found = ask_prefect(environment, "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
    return [run for run in found if run["auto_scheduled"]]


def test_the_form_offers_choices_and_refuses_what_cannot_be(
    trained: tuple[Config, Paths], prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    """Before a run is made: by Prefect's server, from the schema that the flow's form gives it."""
    root = tmp_path / "workspace"
    init_workspace(root, trained[0])
    environment = prefect_environment | {"MEDSYNTH_HOME": str(REPOSITORY), "MEDSYNTH_WORKSPACE": str(root)}
    prefect(environment, "work-pool", "create", "medsynth", "--type", "process", "--overwrite")
    prefect(environment, "--no-prompt", "deploy", "--all")
    deployment = ask_prefect(environment, "/deployments/name/augment/workspace")
    offered = json.dumps(deployment["parameter_openapi_schema"])
    for word in ("Prompts to be written.", '"h200-small"', '"template"', '"processes"', '"exclusiveMinimum": 0'):
        assert word in offered
    create = f"/deployments/{deployment['id']}/create_flow_run"
    for wrong in (
        {"changes": {"prompts": {"n": 0}}},
        {"changes": {"prompts": {"provider": "nobody"}}},
        {"changes": {"prompt": {"n": 5}}},
        {"preset": "huge"},
        {"overrides": ["prompts.n"]},
        {"extend": "perhaps"},
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask_prefect(environment, create, {"parameters": wrong})
        assert refused.value.code in {409, 422}, wrong
    made = ask_prefect(environment, create, {"parameters": {"changes": {"prompts": {"n": 5}}, "preset": "demo"}})
    assert made["parameters"]["changes"] == {"prompts": {"n": 5}}
    ask_prefect(environment, f"/flow_runs/{made['id']}", method="DELETE")


def test_a_schedule_starts_a_run_that_releases(
    trained: tuple[Config, Paths], own_server: dict[str, str], tmp_path: Path
) -> None:
    """SQLAlchemy 2.1 broke Prefect's scheduler without a word: a schedule was made, and no run ever."""
    root = tmp_path / "workspace"
    models = trained[0].models.model_copy(update={"path": "trained"})
    init_workspace(root, trained[0].model_copy(update={"models": models}))
    shutil.copytree(trained[1].root / "models", root / "trained")
    environment = own_server | {"MEDSYNTH_HOME": str(REPOSITORY), "MEDSYNTH_WORKSPACE": str(root)}
    prefect(environment, "work-pool", "create", "medsynth", "--type", "process", "--overwrite")
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
            # the next minute's run is in work by now, and nobody waits for it
            for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
                process.kill()
            worker.wait(60)
    assert runs[0]["state_type"] == "COMPLETED", log.read_text()[-4000:]
    assert runs[0]["start_time"] >= runs[0]["expected_start_time"]
    assert len(open_release(root, rev="synthetic-cxr-v1").dataset()) > 0
