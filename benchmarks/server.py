"""Servers beside the interpreter, for benchmarks and tests that need a real one at a seam."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    program: str,
    folder: Path,
    health: str,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    port: int | None = None,
) -> Iterator[str]:
    """Runs a server and yields its address.

    Args:
        program: beside this interpreter, or on the path.
        folder: for its log, and where it runs.
        health: path that answers as soon as the server is ready.
        environment, arguments: variables to set, and what follows the program; ``{port}`` stands for the port.
        port: where it listens; a free one by default.

    Raises:
        RuntimeError: it ends or doesn't answer within a minute.
    """
    port = port or free_port()
    beside = Path(sys.executable).parent / program
    endpoint = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    settings = {name: value.format(port=port) for name, value in environment.items()}
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(beside if beside.exists() else program), *(each.format(port=port) for each in arguments)],
            env={**os.environ, **settings},
            stdout=output,
            stderr=output,
            cwd=folder,
        )
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{endpoint}{health}", timeout=1).close()
                    break
                except OSError as error:
                    if server.poll() is not None:
                        raise RuntimeError(f"{program} ended: {log.read_text()[-2000:]}") from error
                    time.sleep(0.5)
            else:
                raise RuntimeError(f"{program} did not start: {log.read_text()[-2000:]}")
            yield endpoint
        finally:
            server.terminate()
            server.wait(10)


@contextmanager
def serving_s3(folder: Path) -> Iterator[str]:
    """Runs an S3 server that holds objects in memory and checks sums and conditional puts; yields its address."""
    environment = {"SERVICES": "s3", "GATEWAY_PORT": "{port}", "EDGE_PORT": "{port}"}
    with serving("ministack", folder, "/_ministack/health", environment) as endpoint:
        yield endpoint


@contextmanager
def serving_postgres() -> Iterator[str | None]:
    """Runs Postgres on an empty database and yields its URL for Prefect, or None where Postgres isn't installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
        Path(p).parent for p in (shutil.which("initdb"),) if p
    ]
    if not found:
        yield None
        return
    folder, port = Path(tempfile.mkdtemp(prefix="postgres")), free_port()
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to be root
    if who:
        shutil.chown(folder, "postgres")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*who, str(found[-1] / "pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(folder / "log")]
    initialise = [*who, str(found[-1] / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "prefect"]
    try:
        subprocess.run(initialise, check=True, capture_output=True, cwd="/")
        subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving_prefect(folder: Path, port: int | None = None, **settings: str) -> Iterator[dict[str, str]]:
    """Runs a Prefect server on a database of its own and yields the environment of one who works with it.

    Args:
        port: where it listens; a free one by default.
        settings: further variables of the server.
    """
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    # a new schedule is seen at the scheduler's next turn, which would come after a minute
    turns = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    arguments = ("server", "start", "--host", "127.0.0.1", "--port", "{port}")
    with serving("prefect", folder, "/api/health", own | turns | settings, arguments, port) as endpoint:
        yield {**os.environ, **own, "PREFECT_API_URL": f"{endpoint}/api", "OMP_NUM_THREADS": "2"}


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.SERVICE_UNAVAILABLE


@retry(retry=retry_if_exception(_is_busy), wait=wait_fixed(1), stop=stop_after_delay(60), reraise=True)
def ask_prefect(
    environment: Mapping[str, str], path: str, body: Mapping[str, Any] | None = None, method: str | None = None
) -> Any:
    """Returns what the Prefect server of an environment answers, None where that is nothing.

    Args:
        body: sent as JSON.
        method: POST with a body and GET without by default.

    Raises:
        urllib.error.HTTPError: the server refuses. One that is busy (on SQLite while another writes, for longer than
            it waits) says 503 and has done nothing: it is asked again for a minute, as Prefect's own clients do.
    """
    data = None if body is None else json.dumps(body).encode()
    url = f"{environment['PREFECT_API_URL']}{path}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def listeners(port: int) -> list[psutil.Process]:
    """Returns the processes that listen on a port: killed, a power cut; suspended, a server that is busy."""
    return [
        psutil.Process(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
    ]
