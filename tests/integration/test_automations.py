"""infra/automations.yaml on a real Prefect server: each rings a webhook that is there to hear it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.server import ask_prefect, serving_prefect
from tests.bell import HEARD_WITHIN_S, Bell, be_quick_to_miss

pytestmark = [pytest.mark.integration, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
PREFECT = Path(sys.executable).parent / "prefect"
QUICK = {
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Bell]]:
    folder, bell = tmp_path_factory.mktemp("automations"), Bell()
    with serving_prefect(folder, **QUICK) as environment:
        environment |= {"MEDSYNTH_HOME": str(REPOSITORY), "MEDSYNTH_WORKSPACE": str(folder)}
        pool = [PREFECT, "work-pool", "create", "medsynth", "--type", "process"]
        subprocess.run(pool, env=environment, check=True, capture_output=True)
        for _ in range(2):  # what is there is changed
            command = [sys.executable, "-m", "flows.deploy", "--webhook", bell.url]
            done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        yield environment, bell


def begin(environment: dict[str, str]) -> str:
    """Makes a run of augment that runs, as far as Prefect knows, and returns its id."""
    flow = next(each for each in ask_prefect(environment, "/flows/filter", {}) if each["name"] == "augment")
    wanted = {"flow_id": flow["id"], "name": "augment-night", "state": {"type": "PENDING"}}
    run = ask_prefect(environment, "/flow_runs/", wanted)
    turn(environment, run["id"], "RUNNING", "Running")
    return str(run["id"])


def turn(environment: dict[str, str], run: str, kind: str, name: str, message: str | None = None) -> None:
    state = {"type": kind, "name": name, "message": message}
    ask_prefect(environment, f"/flow_runs/{run}/set_state", {"state": state, "force": True})


def emit(environment: dict[str, str], event: str, run: str) -> None:
    """Emits an event of a run, as its process would."""
    script = (
        "import sys; from prefect.events import emit_event; from prefect.events.clients import *\n"
        "from prefect.events.worker import EventsWorker\n"
        "emit_event(sys.argv[1], {'prefect.resource.id': f'prefect.flow-run.{sys.argv[2]}'})\n"
        "EventsWorker.drain_all()"
    )
    subprocess.run([sys.executable, "-c", script, event, run], env=environment, check=True, capture_output=True)


def test_each_stands_there_once(registered: tuple[dict[str, str], Bell]) -> None:
    names = [each["name"] for each in ask_prefect(registered[0], "/automations/filter", {})]
    assert sorted(names) == [f"medsynth-{what}" for what in ("budget", "failed", "late", "refused", "zombie")]


def test_a_failed_run_rings(registered: tuple[dict[str, str], Bell]) -> None:
    environment, bell = registered
    turn(environment, begin(environment), "FAILED", "Failed", "no such bucket")
    assert bell.rings("augment-night: Failed: no such bucket"), bell.heard


@pytest.mark.parametrize("refusal", ["RiskError: membership_auc is 0.71", "FidelityError: fidelity (spectrum) is 0.02"])
def test_a_refused_release_rings(registered: tuple[dict[str, str], Bell], refusal: str) -> None:
    environment, bell = registered
    turn(environment, begin(environment), "FAILED", "Failed", f"Flow run encountered an exception: {refusal}")
    assert bell.rings("augment-night wasn't published", refusal), bell.heard


def test_a_late_run_rings(registered: tuple[dict[str, str], Bell]) -> None:
    """Some seconds after an automation was changed, the server still goes by the old one: a late run is told once, so
    there must be several."""
    environment, bell = registered
    deployment = ask_prefect(environment, "/deployments/name/augment/workspace")
    for attempt in range(4):
        create = f"/deployments/{deployment['id']}/create_flow_run"
        ask_prefect(environment, create, {"name": f"augment-alone-{attempt}"})
        if bell.rings("augment-alone", "is late", within_s=HEARD_WITHIN_S / 3):
            return
    pytest.fail(f"nothing rang but {bell.heard}")


def test_a_budget_that_comes_near_rings(registered: tuple[dict[str, str], Bell]) -> None:
    environment, bell = registered
    emit(environment, "medsynth.budget.near", begin(environment))
    assert bell.rings("nine tenths of the budget"), bell.heard


def test_a_zombie_rings_and_is_told_to_have_crashed(registered: tuple[dict[str, str], Bell]) -> None:
    """A run beats, and then no more. One whose last beat comes in after its end is none."""
    environment, bell = registered
    be_quick_to_miss(environment)
    ended, run = begin(environment), begin(environment)
    turn(environment, ended, "COMPLETED", "Completed")
    for each in (ended, run):
        emit(environment, "prefect.flow-run.heartbeat", each)
    assert bell.rings("Crashed: its process is gone"), bell.heard
    time.sleep(5)
    assert len([text for text in bell.heard if "its process is gone" in text]) == 1
    assert ask_prefect(environment, f"/flow_runs/{ended}")["state"]["type"] == "COMPLETED"
    assert ask_prefect(environment, f"/flow_runs/{run}")["state"]["type"] == "CRASHED"
