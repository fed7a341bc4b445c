"""Workers of a run in the store under faults, drawn by a seed: nothing is lost, nothing is there twice, and the release
is the one that nobody disturbed.

``MEDSYNTH_FAULTS=100 pytest -m slow tests/integration/test_faults.py -s`` injects so many, and prints what each kind
costs in shards that are begun again.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from medsynth_core.config import Paths
from medsynth_core.progress import silent
from medsynth_core.storage.completion import finished_shards, standing_shards
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.workspace.tree import Config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KINDS = ("SIGKILL", "SIGSTOP", "SIGTERM", "store refuses", "requests fail", "clock", "disk full")
FAULTS = int(os.environ.get("MEDSYNTH_FAULTS", "7"))
SEED = int(os.environ.get("MEDSYNTH_FAULTS_SEED", "0"))
N_WORKERS = 2
_REFUSES_S = 20.0
_FROZEN_S = 5.0
_GRACE_S = 10


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to an S3 server, or answers some as ``share`` and ``refusing`` say.

    Attributes:
        share: of requests that fail, each in one of five ways.
        refusing: whether connections are closed at once.
    """

    daemon_threads = True

    def __init__(self, target: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.target = urlsplit(target).netloc
        self.share, self.refusing, self.n_failed = 0.0, False, 0
        self._draw, self._lock = random.Random(seed), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def how(self) -> str:
        """Returns what becomes of a request."""
        with self._lock:
            if self.refusing or self._draw.random() >= self.share:
                return "refused" if self.refusing else "well"
            self.n_failed += 1
            return self._draw.choice(["500", "503", "reset", "slow", "truncated"])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up was killed."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        how = self.server.how()
        if how in {"refused", "reset"}:
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if how in {"500", "503"}:
            self.send_response(int(how))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if how == "slow":
            time.sleep(2.0)
        behind = http.client.HTTPConnection(self.server.target, timeout=60)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        if how == "truncated" and len(data) > 1:
            data, self.close_connection = data[: len(data) // 2], True
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_PUT = do_HEAD = do_POST = _answer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


class Fleet:
    """Workers of one run, of which as many as should be are kept alive."""

    def __init__(self, at: StoreConfig, run: str, folder: Path) -> None:
        self._at, self._run, self._folder = at, run, folder
        self._alive: list[subprocess.Popen[bytes]] = []
        self.codes: list[int] = []

    def keep(self, *before: str, cache: Path | None = None) -> None:
        """Begins workers in the place of those that ended."""
        self.codes += [each.returncode for each in self._alive if each.poll() is not None]
        self._alive = [each for each in self._alive if each.poll() is None]
        while len(self._alive) < N_WORKERS:
            self._alive.append(self._begun(before, cache or self._folder / "cache"))

    def _begun(self, before: tuple[str, ...], cache: Path) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", "medsynth_core.cli.main", "work", self._at.url, self._run]
        command += ["--endpoint-url", str(self._at.endpoint_url), "--cache", str(cache), "--grace", str(_GRACE_S)]
        log = (self._folder / "workers.log").open("ab")
        return subprocess.Popen(
            command, cwd=self._folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
        )

    def tell(self, draw: random.Random, number: signal.Signals) -> None:
        """Sends a signal to one of the workers."""
        alive = [each for each in self._alive if each.poll() is None]
        if alive:
            draw.choice(alive).send_signal(number)

    def tell_all(self, number: signal.Signals) -> None:
        """Sends a signal to all workers."""
        for each in self._alive:
            each.send_signal(number)

    def wait_for_one(self) -> None:
        """Waits until one has ended."""
        until(lambda: any(each.poll() is not None for each in self._alive))

    def end(self) -> None:
        """Kills all."""
        for each in self._alive:
            each.kill()
            each.wait()


@pytest.fixture
def full(limited_disk: Callable[[str], Path]) -> Path:
    """A file system on which no model fits."""
    return limited_disk("16k")


def inject(kind: str, fleet: Fleet, proxy: FaultyProxy, draw: random.Random, full: Path) -> None:
    """Does one fault to workers that are at work, and lets it pass."""
    if kind in {"SIGKILL", "SIGTERM"}:
        fleet.tell(draw, signal.Signals[kind])
    elif kind == "SIGSTOP":
        fleet.tell(draw, signal.SIGSTOP)
        time.sleep(_FROZEN_S)
        fleet.tell_all(signal.SIGCONT)
    elif kind == "store refuses":
        proxy.refusing = True
        time.sleep(_REFUSES_S)
        proxy.refusing = False
    elif kind == "requests fail":
        proxy.share = 0.1
    elif kind == "clock":
        fleet.tell(draw, signal.SIGTERM)
        fleet.wait_for_one()
        fleet.keep("faketime", "-f", draw.choice(["+5m", "-5m"]))
    else:
        fleet.tell(draw, signal.SIGTERM)
        fleet.wait_for_one()
        fleet.keep(cache=full)


def until(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _one_more(store: ObjectStore, run: str, n: int) -> Callable[[], bool]:
    return lambda: len(standing_shards(store, run)) > n


def attempts(store: ObjectStore, run: str) -> int:
    return sum(not each.key.endswith(".ended.json") for each in store.list(f"runs/{run}/attempts/"))


@pytest.mark.parametrize("kind", KINDS)
def test_faults_lose_nothing(
    kind: str, trained: tuple[Config, Paths], s3_store: StoreConfig, tmp_path: Path, full: Path
) -> None:
    if kind == "clock" and shutil.which("faketime") is None:
        pytest.skip("no faketime on this machine")
    draw = random.Random(f"{SEED} {kind}")
    proxy = FaultyProxy(str(s3_store.endpoint_url), SEED)
    through = s3_store.model_copy(update={"endpoint_url": proxy.endpoint})
    store = open_store(s3_store, tmp_path)
    done = made = begun = 0
    for number in range(FAULTS):
        if done >= max(1, FAULTS // len(KINDS)):
            break
        tiny = trained[0]
        settings = tiny.synthesis.model_copy(update={"shard_images": 2, "samples_per_prompt": 12, "seed": number})
        params = SynthesisParams.of(tiny.model_copy(update={"synthesis": settings}))
        plan = stage.publish_round(params, trained[1], store).plan
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        fleet = Fleet(through, plan.run_id, folder)
        try:
            while len(standing := standing_shards(store, plan.run_id)) < plan.n_shards:
                fleet.keep()
                if done < max(1, FAULTS // len(KINDS)):
                    until(_one_more(store, plan.run_id, len(standing)))
                    inject(kind, fleet, proxy, draw, full)
                    done += 1
                else:
                    time.sleep(1.0)
        finally:
            fleet.end()
            proxy.refusing, proxy.share = False, 0.0
        alone = open_store(StoreConfig(url=str(tmp_path / f"alone-{number}")), tmp_path)
        stage.run(params, trained[1], alone, silent)
        expected = finished_shards(alone, plan.run_id, plan.n_shards)
        assert finished_shards(store, plan.run_id, plan.n_shards) == expected
        report = stage.run(params, trained[1], store, silent)
        assert (report.made, report.counts.failed) == (0, {})
        made, begun = made + plan.n_shards, begun + attempts(store, plan.run_id)
    print(f"\n| {kind} | {done} | {made} | {begun - made} |")
    assert done >= max(1, FAULTS // len(KINDS))
