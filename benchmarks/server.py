"""Servers beside the interpreter, for benchmarks and tests that need a real one at a seam."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


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
