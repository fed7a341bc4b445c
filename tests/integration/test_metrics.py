"""What is seen from outside: metrics that the dashboard and the alerts ask for, rules that ring, pages that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from medsynth_core import errors
from medsynth_core.tally import Counted, count, drain, timed
from tasks import metrics

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2]
INFRA = REPOSITORY / "infra"
RUNBOOK = (REPOSITORY / "docs" / "how-to" / "runbook.md").read_text("utf-8")


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_every_metric_that_is_asked_for_exists() -> None:
    known = {each.name for metric in REGISTRY.collect() for each in metric.samples}
    known |= {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in REGISTRY.collect()}
    known |= {each.name for each in metrics._Memory().collect()}
    for path in (INFRA / "grafana" / "medsynth.json", INFRA / "prometheus" / "alerts.yml"):
        asked = set(re.findall(r"\bmedsynth_\w+", path.read_text("utf-8")))
        assert asked
        assert asked <= known, asked - known


def test_every_panel_is_of_this_dashboard() -> None:
    board = json.loads((INFRA / "grafana" / "medsynth.json").read_text("utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 11
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])


def test_the_alerts_ring_and_keep_silent() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool isn't installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"],
        cwd=INFRA / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_its_page() -> None:
    alerts = re.findall(r"alert: (\w+)", (INFRA / "prometheus" / "alerts.yml").read_text("utf-8"))
    tested = (INFRA / "prometheus" / "alerts_test.yml").read_text("utf-8")
    for alert in alerts:
        assert tested.count(f"alertname: {alert}") >= 2, f"{alert}: once silent, once ringing"
        assert f"### {alert}\n" in RUNBOOK


def test_every_exit_code_has_its_page() -> None:
    codes = {
        each.exit_code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.MedsynthError) and each is not errors.MedsynthError
    }
    assert codes == {int(code) for code in re.findall(r"^### (\d+):", RUNBOOK, re.MULTILINE)}


def test_a_shard_is_counted_once_wherever_it_was_made() -> None:
    accepted, made = (
        sample("medsynth_images_total", verdict="accepted", reason=""),
        sample("medsynth_shards_total", outcome="made"),
    )
    row = {
        "accepted": 5,
        "rejected": {"labels:differ": 2},
        "counted": [Counted("tokens", (), 64.0), ["retries", [["of", "store"]], 3.0]],
    }
    before = sample("medsynth_retries_total", of="store")
    metrics.shard_ended(row)
    metrics.shard_ended(None)
    assert sample("medsynth_images_total", verdict="accepted", reason="") == accepted + 5
    assert sample("medsynth_shards_total", outcome="made") == made + 1
    assert sample("medsynth_shards_total", outcome="failed") >= 1
    assert sample("medsynth_retries_total", of="store") == before + 3


def test_what_the_core_counts_is_handed_over_once() -> None:
    drain()
    count("tokens", 3)
    count("tokens", 4)
    with timed("phase_seconds", phase="pack"):
        pass
    found = {each.name: each for each in drain()}
    assert found["tokens"].value == 7
    assert found["phase_seconds"].labels == (("phase", "pack"),)
    assert drain() == []
    metrics.absorb(found.values())


def test_a_file_of_metrics_stays(tmp_path: Path) -> None:
    script = "from tasks import metrics; metrics.start('w', 'run'); metrics.published(123.0)"
    path = tmp_path / "collector" / "medsynth.prom"
    subprocess.run([sys.executable, "-c", script], env={"MEDSYNTH_METRICS": str(path)}, cwd=REPOSITORY, check=True)
    assert "medsynth_last_release_timestamp_seconds 123.0\n" in path.read_text()


def test_a_port_that_is_taken_is_a_warning() -> None:
    script = (
        "import socket, logging; from tasks import metrics\n"
        "logging.basicConfig()\n"
        "taken = socket.create_server(('127.0.0.1', 0)); import os\n"
        "os.environ['MEDSYNTH_METRICS'] = '127.0.0.1:%d' % taken.getsockname()[1]\n"
        "metrics.start('w', None)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no metrics are served (" in done.stderr
