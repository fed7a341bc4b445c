"""The S3 store: a bucket, or a prefix in one, on AWS or a compatible server. Credentials come from the environment."""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config as BotoConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.loaders import Loader, create_loader
from tenacity import Retrying, retry_if_exception, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from medsynth_core.errors import StoreError, TransientError
from medsynth_core.storage.store import StoredObject, check_key

_TRANSIENT = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "503", "500"),
        *("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),  # changed on the way
    }
)
_STANDS_THERE = frozenset({"PreconditionFailed", "412"})
_CONFLICT = frozenset({"ConditionalRequestConflict", "409"})
"""Another writer is at it and may yet fail: neither ours nor there, so it is asked again."""
_PASSING = (HTTPClientError, IncompleteReadError, FlexibleChecksumError)
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_IN_PARTS = TransferConfig(multipart_threshold=64 * 2**20, multipart_chunksize=32 * 2**20, max_concurrency=4)
"""Larger objects go up in parts, several at a time; a part that fails is sent again alone."""

_LISTED_A_KEY = 50
"""Objects listed for each whose size is asked: a page of 1,000 costs as much as some twenty questions."""
_AT_ONCE = 16
"""Questions."""


class S3Store:
    """Objects of one bucket; each put, or each part of a large one, carries a SHA-256 that the server checks.

    That checksum is among the signed headers, so the body isn't hashed a second time for its signature.
    """

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, region: str | None) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint_url
        self._region = region
        self._clients: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    @property
    def _client(self) -> Any:
        """The client of this process: a forked one must not share its parent's connections."""
        process = os.getpid()
        if process not in self._clients:
            core = botocore.session.get_session()
            core.register_component("data_loader", _loader())
            session = boto3.session.Session(botocore_session=core)
            self._clients[process] = session.client(
                "s3",
                endpoint_url=self._endpoint,
                region_name=self._region or session.region_name or "us-east-1",
                config=BotoConfig(
                    retries={"mode": "adaptive", "max_attempts": 5},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=32,
                    s3={"payload_signing_enabled": False},
                ),
            )
        return self._clients[process]

    def get(self, key: str) -> bytes:
        return self._read(key)

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return self._read(key, Range=f"bytes={offset}-{offset + size - 1}") if size else b""

    def _read(self, key: str, **options: str) -> bytes:
        """Returns a body; one that breaks off is asked for again, which the client itself doesn't do."""
        with self._mapped(key):
            for attempt in _until_whole():
                with attempt:
                    answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **options)
                    body: bytes = answer["Body"].read()
        return body

    def size(self, key: str) -> int | None:
        with self._mapped(key):
            try:
                return int(self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"])
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def sizes(self, folder: str, keys: Sequence[str]) -> Iterator[tuple[str, int | None]]:
        """By listing the folder, as long as that is cheaper than asking for each."""
        wanted = set(keys)
        for stored in islice(self.list(folder), _LISTED_A_KEY * len(keys)):
            if stored.key in wanted:
                wanted.discard(stored.key)
                yield stored.key, stored.size
        unseen = sorted(wanted)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from zip(unseen, pool.map(self.size, unseen), strict=True)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if len(data) >= _IN_PARTS.multipart_threshold and not if_absent:
            self._put_in_parts(key, data)
            return True
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with self._mapped(key):
            try:
                for attempt in _until_decided():
                    with attempt:
                        self._client.put_object(
                            Bucket=self._bucket,
                            Key=self._key(key),
                            Body=data,
                            ChecksumSHA256=checksum,
                            ContentType=_content_type(key),
                            **condition,
                        )
            except ClientError as error:
                if if_absent and _code(error) in _STANDS_THERE:
                    return False
                raise
        return True

    def _put_in_parts(self, key: str, data: bytes) -> None:
        with self._mapped(key):
            self._client.upload_fileobj(
                io.BytesIO(data),
                self._bucket,
                self._key(key),
                ExtraArgs={"ChecksumAlgorithm": "SHA256"},
                Config=_IN_PARTS,
            )

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._mapped(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"])

    def unfinished(self) -> Iterator[StoredObject]:
        with self._mapped("unfinished uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for item in page.get("Uploads", ()):
                    yield StoredObject(item["Key"].removeprefix(self._prefix), 0, item["Initiated"], item["UploadId"])

    def discard(self, unfinished: StoredObject) -> None:
        with self._mapped(unfinished.key):
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=self._key(unfinished.key), UploadId=unfinished.upload
            )

    def delete(self, key: str) -> None:
        with self._mapped(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def check_writable(self) -> None:
        probe = "runs/.writable"
        self.put(probe, b"")
        self.delete(probe)

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        where = f"store {self.url}" + (f" at {self._endpoint}" if self._endpoint else "")
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(f"{where}: no credentials; export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except ClientError as error:
            code = _code(error)
            if code in _TRANSIENT or code in _CONFLICT:
                raise TransientError(f"{where}: {key}: {code}") from error
            if code == "NoSuchBucket":
                raise StoreError(f"{where}: no bucket {self._bucket!r}; create it or correct store.url") from error
            if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "ExpiredToken"}:
                raise StoreError(f"{where}: credentials refused ({code}); check AWS_* in the environment") from error
            reason = "no such object" if code in _MISSING else code
            raise StoreError(f"{where}: {key}: {reason}") from error
        except EndpointConnectionError as error:
            raise TransientError(f"{where}: can't be reached; check store.endpoint_url and the network") from error
        except _PASSING as error:
            raise TransientError(f"{where}: {key}: {_line(error)}") from error
        except (BotoCoreError, ValueError) as error:
            raise StoreError(f"{where}: {_line(error)}; check store.url, store.endpoint_url and AWS_*") from error


@lru_cache(maxsize=1)
def _loader() -> Loader:
    """The reader of botocore's service descriptions, which take it half a second; forked workers inherit them."""
    return create_loader()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _until_whole() -> Retrying:
    return Retrying(
        retry=retry_if_exception_type(_PASSING),
        stop=stop_after_attempt(4),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )


def _until_decided() -> Retrying:
    """Attempts at a conditional put, for as long as another writer's is undecided."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, ClientError) and _code(error) in _CONFLICT),
        stop=stop_after_attempt(6),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )


def _content_type(key: str) -> str:
    """Returns what a browser is told of an object, so that a page opens instead of being saved."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
