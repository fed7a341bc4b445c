"""A real S3-protocol server over HTTP, and a small real run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from medsynth_core.config.tree import StoreConfig


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ministack server that verifies checksums and conditional puts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("w")
    environment = {**os.environ, "SERVICES": "s3", "GATEWAY_PORT": str(port), "EDGE_PORT": str(port)}
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "ministack")],
        env=environment,
        stdout=log,
        stderr=log,
        cwd=Path(log.name).parent,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    pytest.fail(f"ministack ended: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.5)
        else:
            pytest.fail(f"ministack did not start: {Path(log.name).read_text()[-2000:]}")
        yield endpoint
    finally:
        server.terminate()
        server.wait(10)
        log.close()


@pytest.fixture(scope="session")
def new_bucket(s3_endpoint: str) -> Callable[[pytest.MonkeyPatch], StoreConfig]:
    """Returns a function that makes a fresh bucket and puts credentials into the environment of its argument."""

    def make(patch: pytest.MonkeyPatch) -> StoreConfig:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        bucket = f"b{uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
        return StoreConfig(url=f"s3://{bucket}/team/data", endpoint_url=s3_endpoint, region="us-east-1")

    return make


@pytest.fixture
def s3_store(new_bucket: Callable[[pytest.MonkeyPatch], StoreConfig], monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    """A fresh bucket, with credentials in the environment."""
    return new_bucket(monkeypatch)
