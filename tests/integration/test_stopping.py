"""Runs that are told to stop, at any moment: they stop, Prefect says so, nothing is published after, the next goes on.

``MEDSYNTH_STOPS`` is how many moments are tried for each signal; a nightly run tries more than every change does.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.server import ask_prefect, listeners, serving_prefect
from medsynth_core.config import Paths
from medsynth_core.errors import TransientError
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config
from tasks.stopping import GRACE_S

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STOPS = int(os.environ.get("MEDSYNTH_STOPS", "3"))
STOPPED_WITHIN_S = 15
GONE_WITHIN_S = 65
LOOKED_AFTER_S = 2
"""For what an orphan might still do."""
MOMENTS = [(number, moment) for number in (signal.SIGTERM, signal.SIGINT) for moment in range(STOPS)]


def states(environment: dict[str, str]) -> dict[str, str]:
    """Returns the state of each flow run that somebody started, by its id."""
    runs = ask_prefect(environment, "/flow_runs/filter", {})
    return {run["id"]: run["state_type"] for run in runs if not run["auto_scheduled"]}


@pytest.fixture(scope="module")
def workspace(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stopped") / "w"
    tiny = trained[0]
    changes = {
        "models": tiny.models.model_copy(update={"path": "trained"}),
        "synthesis": tiny.synthesis.model_copy(update={"shard_images": 2}),
    }
    init_workspace(root, tiny.model_copy(update=changes))
    shutil.copytree(trained[1].root / "models", root / "trained")
    return root


@pytest.fixture(scope="module")
def length(workspace: Path, prefect_environment: dict[str, str]) -> float:
    """Seconds that a run takes."""
    began = time.monotonic()
    process = start(workspace, prefect_environment, 0)
    assert process.wait(300) == 0
    return time.monotonic() - began


def start(root: Path, environment: dict[str, str], seed: int, *settings: str) -> subprocess.Popen[bytes]:
    """Starts a run of other images than every seed's before it."""
    command = [sys.executable, "-m", "medsynth_core.cli.main", "run", "-w", str(root), "-s", f"synthesis.seed={seed}"]
    for setting in settings:
        command += ["-s", setting]
    with (root.parent / f"{seed}.log").open("w") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
        )


def published(root: Path) -> set[str]:
    return {path.name for path in (root / "store" / "releases").glob("*.json")}


@pytest.mark.parametrize(("number", "moment"), MOMENTS)
def test_a_run_stops(
    workspace: Path, prefect_environment: dict[str, str], length: float, number: signal.Signals, moment: int
) -> None:
    before = states(prefect_environment)
    seed = 1 + MOMENTS.index((number, moment))
    process = start(workspace, prefect_environment, seed)
    group = process.pid
    time.sleep(random.Random(seed).uniform(0.05, 1.05) * length)
    there = published(workspace)
    told = time.monotonic()
    # what a terminal sends reaches every process of the group, what `kill` sends the one that it names
    os.killpg(group, number) if number == signal.SIGINT else process.send_signal(number)
    code = process.wait(60)
    took = time.monotonic() - told
    log = (workspace.parent / f"{seed}.log").read_text()
    assert took < STOPPED_WITHIN_S, log[-3000:]
    time.sleep(LOOKED_AFTER_S)
    runs = {run: state for run, state in states(prefect_environment).items() if run not in before}
    if code == 0:
        assert set(runs.values()) == {"COMPLETED"}, log[-3000:]
        assert len(published(workspace)) == len(there | published(workspace))
    else:
        assert code in {128 + number, -number}, log[-3000:]
        assert set(runs.values()) <= {"CRASHED", "CANCELLED", "COMPLETED"}, log[-3000:]
        if set(runs.values()) != {"COMPLETED"}:  # the process was at its end
            assert published(workspace) == there, log[-3000:]
    left = [each for each in psutil.process_iter() if _of_group(each, group)]
    assert not left, f"{left} go on\n{log[-3000:]}"


def test_the_next_run_goes_on(workspace: Path, prefect_environment: dict[str, str], length: float) -> None:
    process = start(workspace, prefect_environment, 1)
    assert process.wait(300) == 0, (workspace.parent / "1.log").read_text()[-3000:]


def test_a_run_stops_while_prefect_is_busy(workspace: Path, tmp_path: Path) -> None:
    """Its server answers only after the process is to be ended, and is told all the same."""
    with serving_prefect(tmp_path) as environment:
        process, log = at_its_report(workspace, environment)
        for server in listeners(port_of(environment)):
            server.suspend()
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(GRACE_S + 1)
        for server in listeners(port_of(environment)):
            server.resume()
        code = process.wait(60)
        assert time.monotonic() - told < STOPPED_WITHIN_S, log.read_text()[-3000:]
        assert code in {128 + signal.SIGTERM, -signal.SIGTERM}, log.read_text()[-3000:]
        assert set(states(environment).values()) == {"CRASHED", "COMPLETED"}, log.read_text()[-3000:]


def test_a_run_ends_within_a_minute_when_prefect_is_gone(workspace: Path, tmp_path: Path) -> None:
    """In one line, instead of minutes of attempts; what is made is kept."""
    there = published(workspace)
    with serving_prefect(tmp_path) as environment:
        process, log = at_its_report(workspace, environment)
        before = len(log.read_text().splitlines())
        for server in listeners(port_of(environment)):
            server.kill()
        killed = time.monotonic()
        assert process.wait(90) == TransientError.exit_code, log.read_text()[-3000:]
        took = time.monotonic() - killed
    assert took < GONE_WITHIN_S
    after = log.read_text().splitlines()[before:]
    assert after[-1].startswith(f"error: Prefect's server at {environment['PREFECT_API_URL']}"), after[-5:]
    assert len(after) < 30, "\n".join(after)
    assert published(workspace) == there


def at_its_report(root: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a run whose report takes minutes; returns it once it is there, and its log."""
    process, log = start(root, environment, 9999, "report.oracle_phantoms=60000"), root.parent / "9999.log"
    deadline = time.monotonic() + 200
    while "report: 1 of 15 oracle" not in log.read_text() and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    return process, log


def port_of(environment: dict[str, str]) -> int:
    return int(environment["PREFECT_API_URL"].split(":")[2].partition("/")[0])


def _of_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False
