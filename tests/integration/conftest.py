"""A real S3-protocol server over HTTP, and a small real run."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from prefect.testing.utilities import prefect_test_harness

from benchmarks.llm_server import LLMServer
from benchmarks.llm_server import serving as serving_llm
from benchmarks.server import serving, serving_prefect, serving_s3
from medsynth_core.config import Paths
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.tree import Config

_FREE_CALLS = 3
"""Calls of ``guarded`` before the server starts to check signatures: user, policy, key."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts tests with Prefect in this process last: beside its threads a DataLoader's forked worker ends with 1."""
    items.sort(key=lambda item: "prefect_server" in getattr(item, "fixturenames", ()))


class CuttingProxy:
    """A TCP proxy that breaks a connection after so many bytes from the server or from the client.

    Attributes:
        cuts: bytes after which each next connection is cut, by who sends: "server" or "client".
    """

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("http://").split(":")
        self.cuts: dict[str, list[int]] = {"server": [], "client": []}
        self.n_cut = 0
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for name, source, sink in (("client", client, server), ("server", server, client)):
                threading.Thread(target=self._pump, args=(name, source, sink), daemon=True).start()

    def _pump(self, name: str, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if self.cuts[name] and passed > self.cuts[name][0]:
                    self.cuts[name].pop(0)
                    self.n_cut += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def limited_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of their own, of a size such as ``4m``."""
    with ExitStack() as stack:

        def make(size: str) -> Path:
            folder = tmp_path / f"disk-{size}"
            folder.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
                pytest.skip("only root can mount a file system of limited size")
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
            return folder

        yield make


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[CuttingProxy]:
    """A proxy before the S3 server."""
    made = CuttingProxy(s3_endpoint)
    yield made
    made.close()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's server on a database of its own, in which flows run in this process."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of one who works with a Prefect server of their own, on SQLite."""
    with serving_prefect(tmp_path_factory.mktemp("prefect-server")) as environment:
        yield environment


@pytest.fixture
def server() -> Iterator[LLMServer]:
    """An OpenAI-compatible server that answers well until its script says otherwise."""
    yield from serving_llm()


@pytest.fixture
def vocabulary(trained: tuple[Config, Paths]) -> Vocabulary:
    """The vocabulary of the trained workspace."""
    return Vocabulary.load(trained[1]["vocabulary"] / "vocabulary.json")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ministack server that verifies checksums and conditional puts."""
    with serving_s3(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


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


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreConfig, str, str]]:
    """A bucket of a moto server that checks signatures, with the one pair of keys that opens it."""
    environment = {"MOTO_PORT": "{port}", "INITIAL_NO_AUTH_ACTION_COUNT": str(_FREE_CALLS)}
    with serving("moto_server", tmp_path_factory.mktemp("moto"), "/moto-api/data.json", environment) as endpoint:
        iam = boto3.client(
            "iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        iam.create_user(UserName="user")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(everything))
        keys = iam.create_access_key(UserName="user")["AccessKey"]
        key, secret = keys["AccessKeyId"], keys["SecretAccessKey"]
        boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
        ).create_bucket(Bucket="bucket")
        yield StoreConfig(url="s3://bucket/data", endpoint_url=endpoint, region="us-east-1"), key, secret
