"""Runs of a worker that are cancelled in Prefect, or told to stop: what Prefect says of them, and what is published."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.server import ask_prefect, serving_prefect
from medsynth_core.config import Paths
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).parent / "prefect")
WAITED_S = 120
CANCELLED_WITHIN_S = 40
"""The worker asks every few seconds; a run is stopped within 15 s after that."""
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SLOW = """#!/bin/sh
grep -q {reference} || exit 0
[ "$1" = prepared ] && touch "{asked}" && sleep 12
exit 0
"""
"""What git calls when a reference changes: with it, that takes its time."""
STUMBLES = """
import os, signal, sys
from prefect import flow
from prefect.runtime import flow_run
from tasks.stopping import in_work

@flow
def stumbling():
    with in_work(flow_run.id):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except BaseException:
            raise ValueError("an engine that stumbles over a signal") from None

from prefect.exceptions import TerminationSignal
def handler(number, frame): raise TerminationSignal(signal=number)
signal.signal(signal.SIGTERM, handler)
stumbling()
"""


class Site:
    """A workspace and the worker that runs in it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.environment = root, environment

    def begin(self, seed: int) -> str:
        """Starts a run of other images than those of other seeds, and returns its id."""
        deployment = ask_prefect(self.environment, "/deployments/name/augment/workspace")["id"]
        body = {"parameters": {"changes": {"synthesis": {"seed": seed}}}}
        return str(ask_prefect(self.environment, f"/deployments/{deployment}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        return str(ask_prefect(self.environment, f"/flow_runs/{run}")["state"]["type"])

    def cancel(self, run: str) -> None:
        ask_prefect(self.environment, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": True})

    def wait(self, run: str, done: Callable[[], bool], within_s: float = WAITED_S) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, f"{self.state(run)}\n{self.log()}"
            time.sleep(0.2)

    def log(self) -> str:
        return (self.root.parent / "worker.log").read_text()[-5000:]

    def published(self) -> set[str]:
        return {path.name for path in (self.root / "store" / "releases").glob("*.json")}

    def shards(self) -> int:
        return len(list((self.root / "store" / "runs").glob("*/shards/*.json")))


@pytest.fixture(scope="module")
def site(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cancelled")
    root, tiny = folder / "w", trained[0]
    changes = {
        "models": tiny.models.model_copy(update={"path": "trained"}),
        "synthesis": tiny.synthesis.model_copy(update={"shard_images": 1}),
    }
    init_workspace(root, tiny.model_copy(update=changes))
    shutil.copytree(trained[1].root / "models", root / "trained")
    with serving_prefect(folder) as environment:
        environment |= {"MEDSYNTH_HOME": str(REPOSITORY), "MEDSYNTH_WORKSPACE": str(root)}
        for command in (["work-pool", "create", "medsynth", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
            done = [PREFECT, *command]
            subprocess.run(done, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
        with (folder / "worker.log").open("w") as log:
            command = [PREFECT, "worker", "start", "--pool", "medsynth"]
            worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        yield Site(root, environment)
        for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
            process.kill()
        worker.wait(60)


def test_a_run_that_is_cancelled_stops(site: Site) -> None:
    run = site.begin(1)
    site.wait(run, lambda: site.shards() > 1)
    site.cancel(run)
    site.wait(run, lambda: site.state(run) in ENDED, CANCELLED_WITHIN_S)
    assert site.state(run) == "CANCELLED"
    site.wait(run, lambda: not flow_processes(site), 15)
    time.sleep(2)
    assert not site.published()


def test_the_next_run_goes_on(site: Site) -> None:
    before = site.shards()
    run = site.begin(1)
    site.wait(run, lambda: site.state(run) in ENDED)
    assert site.state(run) == "COMPLETED", site.log()
    assert len(site.published()) == 1
    assert before > 0


@pytest.mark.parametrize(
    ("reference", "seed", "state"), [("refs/heads", 2, "CANCELLED"), ("refs/tags", 3, "COMPLETED")]
)
def test_what_is_cancelled_while_it_is_recorded(site: Site, reference: str, seed: int, state: str) -> None:
    """Cancelled while the commit is made, it isn't published. Cancelled while the version that is in the store is
    tagged, it is published, and Prefect says so."""
    there, asked = site.published(), site.root.parent / "asked"
    asked.unlink(missing_ok=True)
    hook = site.root / ".git" / "hooks" / "reference-transaction"
    hook.write_text(SLOW.format(asked=asked, reference=reference))
    hook.chmod(0o755)
    run = site.begin(seed)
    site.wait(run, asked.exists)
    site.cancel(run)
    site.wait(run, lambda: not flow_processes(site), CANCELLED_WITHIN_S)
    hook.unlink()
    site.wait(run, lambda: site.state(run) == state, 2 * CANCELLED_WITHIN_S)
    time.sleep(3)
    assert site.state(run) == state, site.log()
    assert len(site.published() - there) == (state == "COMPLETED")


def test_a_run_that_is_told_to_stop_is_said_to_have_crashed(site: Site) -> None:
    there, shards = site.published(), site.shards()
    run = site.begin(4)
    site.wait(run, lambda: site.shards() > shards)
    (process,) = flow_processes(site)
    os.kill(process, signal.SIGTERM)
    site.wait(run, lambda: site.state(run) in ENDED, 20)
    assert site.state(run) == "CRASHED", site.log()
    assert site.published() == there


def test_a_stop_that_prefect_takes_for_a_failure_is_said_to_be_one(site: Site, tmp_path: Path) -> None:
    (tmp_path / "stumbles.py").write_text(STUMBLES)
    before = {run["id"] for run in ask_prefect(site.environment, "/flow_runs/filter", {})}
    command = [sys.executable, str(tmp_path / "stumbles.py")]
    environment = site.environment | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    found: list[dict[str, Any]] = ask_prefect(site.environment, "/flow_runs/filter", {})
    assert [run["state_type"] for run in found if run["id"] not in before] == ["CRASHED"], done.stderr


def flow_processes(site: Site) -> list[int]:
    """Returns the processes that are at work in the workspace, those that a worker starts for a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") and str(site.root) in process.environ().values():
                found.append(process)
        except psutil.Error:
            continue
    outer = {process.pid for process in found}
    return [process.pid for process in found if process.ppid() not in outer]
