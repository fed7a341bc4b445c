"""What becomes of an S3 server's failures, and how many requests a call may cost before it gives up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as boto
from urllib3.exceptions import SSLError as BodySSLError

from medsynth_core.errors import MedsynthError, StoreError, TransientError
from medsynth_core.storage.s3_errors import as_ours
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import PROBE, ObjectStore, open_store
from medsynth_core.storage.stores import s3

pytestmark = pytest.mark.integration

URL = "https://example.org"


class FailingServer(ThreadingHTTPServer):
    """Answers every request as ``how`` says, and counts them. It knows of no conditions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.how: list[str] = ["well"]
        self.n_requests = 0

    def next(self) -> str:
        """Returns what is next of the script, whose last word stands for all that follow."""
        self.n_requests += 1
        return self.how.pop(0) if len(self.how) > 1 else self.how[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: FailingServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        how = self.server.next()
        if how == "silent":
            time.sleep(2)
            self.close_connection = True
            return
        status = int(how) if how.isdigit() else 200
        body = b"0123456789" if self.command == "GET" else b""
        if status == 409:
            body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body[:3] if how in {"cut", "stalled"} else body)
        if how == "stalled":
            time.sleep(2)
        self.close_connection = how in {"cut", "stalled"}

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(s3, "_READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with FailingServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def opened(server: FailingServer) -> ObjectStore:
    return open_store(StoreConfig(url="s3://bucket/team", endpoint_url=server.endpoint, region="us-east-1"), Path())


def get(store: ObjectStore) -> Any:
    return store.get("key")


def put(store: ObjectStore) -> Any:
    return store.put("key", b"data")


def claim(store: ObjectStore) -> Any:
    return store.put("key", b"data", if_absent=True)


@pytest.mark.parametrize(
    ("call", "how", "n_requests"),
    [
        (get, ["500"], 4),
        (get, ["503"], 4),
        (get, ["silent"], 4),
        (get, ["cut"], 4),
        (get, ["stalled"], 4),
        (get, ["500", "cut", "500", "cut"], 4),
        (get, ["500", "500", "cut", "500"], 7),
        (put, ["500"], 4),
        (put, ["silent"], 4),
        (claim, ["silent"], 4),
        (claim, ["409"], 4),
        (claim, ["500", "500", "409", "silent"], 7),
    ],
)
def test_a_call_that_never_succeeds_costs_a_handful_of_requests(
    failing: FailingServer, call: Callable[[ObjectStore], Any], how: list[str], n_requests: int
) -> None:
    failing.how = list(how)
    with pytest.raises(TransientError, match="key") as caught:
        call(opened(failing))
    assert "\n" not in str(caught.value)
    assert failing.n_requests == n_requests


@pytest.mark.parametrize(
    "how", [["500", "well"], ["silent", "well"], ["cut", "500", "cut", "well"], ["stalled", "well"]]
)
def test_a_call_that_succeeds_in_the_end_is_one(failing: FailingServer, how: list[str]) -> None:
    failing.how = list(how)
    assert get(opened(failing)) == b"0123456789"
    assert failing.n_requests == len(how)


def test_a_server_that_ignores_conditions_is_refused(failing: FailingServer) -> None:
    with pytest.raises(StoreError, match="ignores If-None-Match, so two workers could overwrite"):
        opened(failing).check_writable()


def answered(code: str, status: int) -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "PutObject",
    )


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (boto.ConnectTimeoutError(endpoint_url=URL), TransientError, "key: Connect timeout"),
        (boto.ReadTimeoutError(endpoint_url=URL), TransientError, "key: Read timeout"),
        (boto.EndpointConnectionError(endpoint_url=URL), TransientError, "can't be reached"),
        (boto.ConnectionClosedError(endpoint_url=URL), TransientError, "key: Connection was closed"),
        (boto.ProxyConnectionError(proxy_url="http://proxy"), TransientError, "check HTTP_PROXY"),
        (boto.HTTPClientError(error="reset"), TransientError, "key: An HTTP Client"),
        (boto.ResponseStreamingError(error="reset"), TransientError, "key: An error"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientError, "key: 1 read"),
        (boto.FlexibleChecksumError(error_msg="differs"), TransientError, "key: differs"),
        (boto.SSLError(endpoint_url=URL, error="EOF occurred in violation of protocol"), TransientError, "key: SSL"),
        (BodySSLError("bad record mac"), TransientError, "key: bad record"),
        (boto.SSLError(endpoint_url=URL, error="certificate verify failed"), StoreError, "AWS_CA_BUNDLE"),
        (boto.SSLError(endpoint_url=URL, error="[SSL: WRONG_VERSION_NUMBER] wrong version number"), StoreError, "SSL"),
        (boto.NoCredentialsError(), StoreError, "export AWS_ACCESS_KEY_ID"),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), StoreError, "export AWS_ACCESS_KEY_ID"),
        (boto.MetadataRetrievalError(error_msg="busy"), TransientError, "busy"),
        (boto.ParamValidationError(report="Invalid bucket name"), StoreError, "Invalid bucket name"),
        (ValueError("Invalid endpoint: x"), StoreError, "check store.url, store.endpoint_url"),
        (answered("SlowDown", 503), TransientError, "key: SlowDown"),
        (answered("InternalError", 500), TransientError, "key: InternalError"),
        (answered("502", 502), TransientError, "key: 502"),
        (answered("429", 429), TransientError, "key: 429"),
        (answered("RequestTimeout", 400), TransientError, "key: RequestTimeout"),
        (answered("BadDigest", 400), TransientError, "key: BadDigest"),
        (answered("ConditionalRequestConflict", 409), TransientError, "key: Conditional"),
        (answered("NotImplemented", 501), StoreError, "key: NotImplemented"),
        (answered("NoSuchBucket", 404), StoreError, "no bucket 'b'"),
        (answered("NoSuchKey", 404), StoreError, "key: no such object"),
        (answered("AccessDenied", 403), StoreError, r"key: PutObject not permitted \(AccessDenied\); grant it"),
        (answered("403", 403), StoreError, r"key: PutObject not permitted \(403\)"),
        (answered("InvalidAccessKeyId", 403), StoreError, r"credentials refused \(InvalidAccessKeyId\); check AWS_"),
        (answered("SignatureDoesNotMatch", 403), StoreError, "credentials refused"),
        (answered("ExpiredToken", 400), StoreError, "credentials refused"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_may_pass_and_what_may_not(error: Exception, kind: type[MedsynthError], message: str) -> None:
    with pytest.raises(kind, match=rf"^store s3://b/p: .*{message}|^store s3://b/p: {message}") as caught:
        raise as_ours(error, "store s3://b/p", "key", "b")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_connection_that_a_proxy_refuses_may_pass(failing: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    config = StoreConfig(url="s3://bucket/team", endpoint_url="http://s3.invalid", region="us-east-1")
    with pytest.raises(TransientError, match="HTTP_PROXY") as caught:
        open_store(config, Path()).get("key")
    assert "secret" not in str(caught.value)


def test_tls_from_a_server_without_it_will_never_do(failing: FailingServer) -> None:
    config = StoreConfig(url="s3://bucket/team", endpoint_url=failing.endpoint.replace("http", "https"))
    with pytest.raises(StoreError, match="SSL"):
        open_store(config, Path()).get("key")


def test_a_role_that_may_only_add_is_enough(
    guarded: tuple[StoreConfig, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may neither delete nor read what others wrote; what it may not do is named."""
    config, key, secret = guarded
    root = {"endpoint_url": config.endpoint_url, "region_name": config.region}
    iam = boto3.client("iam", aws_access_key_id=key, aws_secret_access_key=secret, **root)
    iam.create_user(UserName="adder")
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": "arn:aws:s3:::bucket/*"}],
    }
    iam.put_user_policy(UserName="adder", PolicyName="add", PolicyDocument=json.dumps(policy))
    keys = iam.create_access_key(UserName="adder")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    store = open_store(config, tmp_path)
    store.check_writable()
    store.check_writable()
    with pytest.raises(StoreError, match=rf"{PROBE}: DeleteObject not permitted \(AccessDenied\)"):
        store.delete(PROBE)
    with pytest.raises(StoreError, match=r"runs/: ListObjectsV2 not permitted"):
        list(store.list("runs/"))
