"""Servers beside the interpreter, for benchmarks and tests that need a real one at a seam."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil


@contextmanager
def serving(
    program: str, folder: Path, health: str, environment: Mapping[str, str], arguments: Sequence[str] = ()
) -> Iterator[str]:
    """Runs a server beside this interpreter on a free port and yields its address.

    Args:
        folder: for its log, and where it runs.
        health: path that answers as soon as the server is ready.
        environment, arguments: variables to set, and what follows the program; ``{port}`` stands for the port.

    Raises:
        RuntimeError: it ends or doesn't answer within a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    settings = {name: value.format(port=port) for name, value in environment.items()}
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(Path(sys.executable).parent / program), *(each.format(port=port) for each in arguments)],
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
def serving_prefect(folder: Path, **settings: str) -> Iterator[dict[str, str]]:
    """Runs a Prefect server on a database of its own and yields the environment of one who works with it.

    Args:
        settings: further variables of the server.
    """
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    # a new schedule is seen at the scheduler's next turn, which would come after a minute
    turns = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    arguments = ("server", "start", "--host", "127.0.0.1", "--port", "{port}")
    with serving("prefect", folder, "/api/health", own | turns | settings, arguments) as endpoint:
        yield {**os.environ, **own, "PREFECT_API_URL": f"{endpoint}/api", "OMP_NUM_THREADS": "2"}


def ask_prefect(environment: Mapping[str, str], path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Returns what the Prefect server of an environment answers; a body is posted."""
    data = None if body is None else json.dumps(body).encode()
    url = f"{environment['PREFECT_API_URL']}{path}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def kill_listener(port: int) -> None:
    """Kills the processes that listen on a port, as a power cut would."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            psutil.Process(connection.pid).kill()
