"""What is seen from outside while a run goes, in Prometheus' terms.

``MEDSYNTH_METRICS`` says where: ``host:port`` is served while the run lasts, a path that ends with ``.prom`` is written
for node_exporter's textfile collector, and stays. Workers count by ``medsynth_core.tally`` and send what they counted
with each shard; the process of the flow adds it up.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run
from prometheus_client import REGISTRY, Counter, Gauge, disable_created_metrics, start_http_server, write_to_textfile
from prometheus_client.core import GaugeMetricFamily

from medsynth_core.tally import Counted, drain

disable_created_metrics()  # type: ignore[no-untyped-call]

VARIABLE = "MEDSYNTH_METRICS"
_PULSE_S = 5.0
_log = logging.getLogger("medsynth_core.metrics")

_IMAGES = Counter("medsynth_images", "Images made, by verdict and, when rejected, by reason.", ["verdict", "reason"])
_SHARDS = Counter("medsynth_shards", "Shards that ended, made or failed.", ["outcome"])
_MISSING = Gauge("medsynth_shards_missing", "Shards of the round in work that aren't in the store yet.")
_IN_FLIGHT = Gauge("medsynth_shards_in_flight", "Shards in work.")
_STAGE = Gauge("medsynth_stage_progress", "Share of a stage that is done, 0 to 1.", ["stage"])
_BUDGET = Gauge("medsynth_llm_budget_dollars", "What the prompts may cost; 0 without a limit.")
_RELEASE = Gauge("medsynth_last_release_timestamp_seconds", "When a run published last.")
_RUN = Gauge("medsynth_run_info", "The run in work.", ["workspace", "flow_run"])

_COUNTED = {
    "tokens": Counter("medsynth_tokens", "Image tokens decoded."),
    "phase_seconds": Counter("medsynth_phase_seconds", "Seconds of shards' workers, by phase.", ["phase"]),
    "retries": Counter("medsynth_retries", "Requests made again, to the store or to a language model.", ["of"]),
    "llm_tokens": Counter("medsynth_llm_tokens", "Tokens paid to a language model.", ["direction"]),
    "llm_dollars": Counter("medsynth_llm_dollars", "Dollars paid to a language model by this process."),
}
"""By the names that the core counts under."""

# What rises from nothing is seen as no rise: these are 0 from the start.
_IMAGES.labels("accepted", "")
for _outcome in ("made", "failed"):
    _SHARDS.labels(_outcome)
for _of in ("store", "llm"):
    _COUNTED["retries"].labels(_of)

_NEAR = 0.9


class _Budget:
    """What prompts may cost and what this process has spent; tells Prefect once when that comes near."""

    def __init__(self) -> None:
        self.dollars: float | None = None
        self._spent = 0.0
        self._told = False

    def spend(self, dollars: float) -> None:
        self._spent += dollars
        if self.dollars is not None and self._spent > _NEAR * self.dollars and not self._told:
            self._told = True
            if flow_run.id is not None:
                emit_event("medsynth.budget.near", {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"})


_budget = _Budget()
_place: str | None = None


class _Memory:
    """Free memory of each GPU, looked up when it is asked for."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        free = GaugeMetricFamily("medsynth_gpu_free_bytes", "Free memory of a GPU.", labels=["gpu"])
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            for gpu in range(torch.cuda.device_count()):
                free.add_metric([str(gpu)], torch.cuda.mem_get_info(gpu)[0])
        yield free


def start(workspace: str, flow_run: str | None) -> None:
    """Serves or writes the metrics of this process from now on, where the environment wants them; once a process."""
    global _place
    _RUN.labels(workspace, flow_run or "").set(1)
    wanted = os.environ.get(VARIABLE)
    if _place is not None or not wanted:
        return
    _place = wanted
    REGISTRY.register(_Memory())  # type: ignore[arg-type]
    if wanted.endswith(".prom"):
        threading.Thread(target=_write_on, name="metrics", daemon=True).start()
        return
    host, _, port = wanted.rpartition(":")
    try:
        start_http_server(int(port), host or "127.0.0.1")
    except (OSError, ValueError, OverflowError) as error:
        expected = "expected host:port or a path with .prom"
        _log.warning("%s=%s: no metrics are served (%s); %s", VARIABLE, wanted, error, expected)


def absorb(counted: Iterable[Counted]) -> None:
    """Adds what workers, or this process, counted."""
    for name, labels, value in counted:
        metric = _COUNTED[name]
        (metric.labels(**dict(labels)) if labels else metric).inc(value)
        if name == "llm_dollars":
            _budget.spend(value)


def shard_ended(row: Mapping[str, Any] | None) -> None:
    """Counts a shard: its images by their verdicts; None: it failed."""
    _SHARDS.labels("failed" if row is None else "made").inc()
    if row is None:
        return
    absorb(Counted(*each) for each in row["counted"])
    _IMAGES.labels("accepted", "").inc(row["accepted"])
    for reason, n in row["rejected"].items():
        _IMAGES.labels("rejected", reason).inc(n)


def shards_left(missing: int, in_flight: int) -> None:
    """Notes how many shards of the round are missing, and how many of these are in work."""
    _MISSING.set(missing)
    _IN_FLIGHT.set(in_flight)


def stage_done(stage: str, share: float) -> None:
    """Notes how much of a stage is done, 0 to 1."""
    absorb(drain())
    _STAGE.labels(stage).set(share)


def budget(dollars: float | None) -> None:
    """Notes what the prompts may cost."""
    _budget.dollars = dollars
    _BUDGET.set(dollars or 0.0)


def published(when: float) -> None:
    """Notes when the newest release was published, in seconds since 1970."""
    _RELEASE.set(when)
    write()


def write() -> None:
    """Writes the file of metrics, if one is wanted."""
    if _place is not None and _place.endswith(".prom"):
        Path(_place).parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(_place, REGISTRY)


def _write_on() -> None:
    while True:
        write()
        time.sleep(_PULSE_S)
