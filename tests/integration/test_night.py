"""A night in fast motion, as infra/ describes nights: Postgres, server, worker, schedule, automations, Prometheus.

Three runs begin a minute apart: one that makes a release, one that adds to it, and one that can't go well. The second
night the power fails while the first run is in work: its worker and the server are killed, and start again.
Without Postgres Prefect keeps SQLite, without Prometheus nothing is scraped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.server import ask_prefect, free_port, listeners, serving, serving_postgres, serving_prefect
from medsynth_core.config import Paths
from medsynth_core.release import open_release
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config
from tests.bell import Bell

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).parent / "prefect")
APART_S = 60
AHEAD_S = 45
BETWEEN_NIGHTS_S = 270
WITHOUT_POWER_S = 30
WAITED_S = 420
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
MISSING = "OPENAI_API_KEY"
"""What the third run needs and the worker hasn't."""
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: medsynth
    static_configs: [targets: ["127.0.0.1:{port}"]]
"""


class House:
    """Server, worker and Prometheus on one machine; server and worker can lose their power.

    Attributes:
        bell: the webhook.
        environment: of one who works with the server.
        root: the workspace.
        nights: when the runs of each night are due.
    """

    def __init__(self, folder: Path, trained: tuple[Config, Paths], services: ExitStack) -> None:
        self.folder, self.bell, self.root = folder, Bell(), folder / "workspace"
        models = trained[0].models.model_copy(update={"path": "trained"})
        # so many shards that a run lasts a while
        synthesis = trained[0].synthesis.model_copy(update={"shard_images": 2})
        init_workspace(self.root, trained[0].model_copy(update={"models": models, "synthesis": synthesis}))
        shutil.copytree(trained[1].root / "models", self.root / "trained")
        self._services = services
        self._port, metrics = free_port(), free_port()
        database = services.enter_context(serving_postgres())
        self._settings = {"PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "flows.ordering"}
        if database is not None:
            self._settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        self._own = {
            "MEDSYNTH_HOME": str(REPOSITORY),
            "MEDSYNTH_WORKSPACE": str(self.root),
            "MEDSYNTH_METRICS": f"127.0.0.1:{metrics}",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }
        self.prometheus = services.enter_context(watching(folder, metrics))
        self.start_server()
        self.prefect("work-pool", "create", "medsynth", "--type", "process")
        command = [sys.executable, "-m", "flows.deploy", "--webhook", self.bell.url]
        subprocess.run(command, cwd=REPOSITORY, env=self.environment, check=True, capture_output=True)
        first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=AHEAD_S)
        self.nights = [self.schedule(first), self.schedule(first + timedelta(seconds=BETWEEN_NIGHTS_S))]
        self.start_worker()

    def prefect(self, *words: str) -> None:
        subprocess.run([PREFECT, *words], env=self.environment, check=True, capture_output=True)

    def start_server(self) -> None:
        server = self._services.enter_context(serving_prefect(self.folder, self._port, **self._settings))
        self.environment = {name: value for name, value in server.items() if name != MISSING} | self._own

    def start_worker(self) -> None:
        with (self.folder / "worker.log").open("a") as log:
            command = [sys.executable, "-m", "flows.worker", "--pool", "medsynth"]
            self._worker = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self._services.callback(self.kill_worker)

    def kill_worker(self) -> None:
        """Kills the worker and what it runs, as a power cut would."""
        if self._worker.poll() is None:
            for process in (*psutil.Process(self._worker.pid).children(recursive=True), self._worker):
                process.kill()
            self._worker.wait(60)

    def fail_of_power(self) -> None:
        self.kill_worker()
        for server in listeners(self._port):
            server.kill()

    def schedule(self, first: datetime) -> list[str]:
        """Makes the three runs of a night due, the first when it is said, and returns when each is."""
        deployment = ask_prefect(self.environment, "/deployments/name/augment/workspace")["id"]
        due = [first + number * timedelta(seconds=APART_S) for number in range(3)]
        parameters = [{}, {"extend": True}, {"changes": {"prompts": {"provider": "openai"}}}]
        for when, each in zip(due, parameters, strict=True):
            rule = f"DTSTART:{when:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY;COUNT=1"
            body = [{"active": True, "schedule": {"rrule": rule, "timezone": "UTC"}, "parameters": each}]
            ask_prefect(self.environment, f"/deployments/{deployment}/schedules", body)
        return [when.isoformat() for when in due]

    def runs(self, due: list[str]) -> list[dict[str, Any]]:
        """Returns the runs that were due at some times, in that order."""
        found = ask_prefect(self.environment, "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return [run for run in found if run["auto_scheduled"] and _same(run["expected_start_time"], due)]

    def wait(self, due: list[str], done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Waits for what is said of the runs, and returns them."""
        deadline = time.monotonic() + WAITED_S
        while not done(runs := self.runs(due)):
            said = [(run["name"], run["state"]["name"], run["state"]["message"]) for run in runs]
            assert time.monotonic() < deadline, f"{said}\n{self.log()}"
            time.sleep(1)
        return runs

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()[-6000:]


def _same(when: str, due: list[str]) -> bool:
    return datetime.fromisoformat(when) in {datetime.fromisoformat(each) for each in due}


@contextmanager
def watching(folder: Path, port: int) -> Iterator[str | None]:
    """Runs Prometheus, which scrapes a port every second by the rules of infra/; yields its address, if it is there."""
    if shutil.which("prometheus") is None:
        yield None
        return
    (own := folder / "prometheus").mkdir()
    rules = REPOSITORY / "infra" / "prometheus" / "alerts.yml"
    (own / "prometheus.yml").write_text(PROMETHEUS.format(rules=rules, port=port))
    arguments = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:{port}")
    with serving("prometheus", own, "/-/ready", {}, arguments) as address:
        yield address


def scraped(prometheus: str, expression: str) -> dict[str, float]:
    """Returns the value of an expression, by the labels that tell its series apart."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return {_labels(each["metric"]): float(each["value"][1]) for each in found}


def _labels(metric: Mapping[str, str]) -> str:
    return ",".join(value for name, value in sorted(metric.items()) if name not in {"instance", "job", "__name__"})


@pytest.fixture(scope="module")
def house(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as services:
        yield House(tmp_path_factory.mktemp("night"), trained, services)


def states(runs: list[dict[str, Any]]) -> list[str]:
    return [run["state_type"] for run in runs]


def all_ended(runs: list[dict[str, Any]]) -> bool:
    return len(runs) == 3 and set(states(runs)) <= ENDED


def tags(root: Path) -> list[str]:
    """Returns the tags in the store, the oldest first."""
    return sorted(path.stem for path in (root / "store" / "releases").glob("*.json"))


def test_a_night(house: House) -> None:
    runs = house.wait(house.nights[0], all_ended)
    assert states(runs) == ["COMPLETED", "COMPLETED", "FAILED"], house.log()
    assert house.bell.rings("Failed", MISSING), house.bell.heard
    assert len(house.bell.heard) == 1, house.bell.heard
    _has_grown(house.root, *tags(house.root))
    if house.prometheus is not None:
        _was_seen(house.prometheus, runs)


def test_a_night_in_which_the_power_fails(house: House) -> None:
    before = tags(house.root)
    due = house.nights[1]
    house.wait(due, lambda runs: bool(runs) and runs[0]["state_type"] == "RUNNING")
    time.sleep(4)  # it is at work
    house.fail_of_power()
    time.sleep(WITHOUT_POWER_S)
    house.start_server()
    house.start_worker()
    runs = house.wait(due, all_ended)
    assert states(runs) == ["CRASHED", "COMPLETED", "FAILED"], house.log()
    assert house.bell.rings("Crashed", "Its process is gone"), house.bell.heard
    assert house.bell.rings("Failed", MISSING, times=2), house.bell.heard
    unasked = [text for text in house.bell.heard if "is late" not in text]  # while no worker was there
    assert len(unasked) == 3, house.bell.heard
    made = [tag for tag in tags(house.root) if tag not in before]
    assert len(made) == 1
    _has_grown(house.root, before[-1], made[0])


def _has_grown(root: Path, parent: str, child: str) -> None:
    """Checks that a release holds all of another and more, each image readable."""
    old, new = open_release(root, rev=parent).dataset(), open_release(root, rev=child).dataset()
    had, has = ({each["image_id"] for each in dataset} for dataset in (old, new))
    assert had < has


def _was_seen(prometheus: str, runs: list[dict[str, Any]]) -> None:
    """Checks that Prometheus has the night: its runs, its shards, its images, its release; and that its rules hold."""
    seen = scraped(prometheus, "max by (flow_run) (max_over_time(medsynth_run_info[15m]))")
    assert {runs[0]["id"], runs[1]["id"]} <= set(seen)
    assert scraped(prometheus, 'max(max_over_time(medsynth_shards_total{outcome="made"}[15m]))')[""] > 0
    assert scraped(prometheus, 'max(max_over_time(medsynth_images_total{verdict="accepted"}[15m]))')[""] > 0
    assert scraped(prometheus, "time() - max(max_over_time(medsynth_last_release_timestamp_seconds[15m]))")[""] < 900
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
        (group,) = json.load(answer)["data"]["groups"]
    assert group["rules"]
    assert all(rule["health"] == "ok" for rule in group["rules"]), group["rules"]
