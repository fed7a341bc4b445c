"""The S3 store: a bucket, or a prefix in one, on AWS or a compatible server. Credentials come from the environment."""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config as BotoConfig
from botocore.exceptions import ClientError
from botocore.loaders import Loader, create_loader

from medsynth_core.errors import ConfigError, StoreError
from medsynth_core.storage.s3_errors import BROKEN_OFF, CONFLICT, FAILURES, MISSING, STANDS_THERE, as_ours, code_of
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import PROBE, StoredObject, check_key
from medsynth_core.tally import count

_TRIES = 4
"""Requests that one call may cost, see ``S3Store``."""
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_IN_PARTS = TransferConfig(multipart_threshold=64 * 2**20, multipart_chunksize=32 * 2**20, max_concurrency=4)
"""Larger objects go up in parts, several at a time; a part that fails is sent again alone."""

_LINK_S = 7 * 24 * 3600
"""How long a link opens; S3 allows no longer."""
_LISTED_A_KEY = 50
"""Objects listed for each whose size is asked: a page of 1,000 costs as much as some twenty questions."""
_AT_ONCE = 16
"""Questions, each of which is little but waiting."""


def _count_retries(parsed: Mapping[str, Any], **_: Any) -> None:
    """Counts what the client itself repeated."""
    if retried := parsed["ResponseMetadata"].get("RetryAttempts", 0):
        count("retries", retried, of="store")


class S3Store:
    """Objects of one bucket; each put, or each part of a large one, carries a SHA-256 that the server checks.

    That checksum is among the signed headers, so the body isn't hashed a second time for its signature.

    The client repeats a request that is throttled, times out or gets a server's error: ``_TRIES`` requests in all, with
    a growing pause. A body that breaks off and an undecided conditional put, which the client leaves alone, are
    repeated here and count against the same ``_TRIES``; where both kinds come together, the last repetition may have
    the client's own, so that no call makes more than 2 * ``_TRIES`` - 1 requests (a listing: a page; an object in
    parts: a part). Then it is a TransientError, and whoever called may repeat the work.
    """

    is_dvc_cache = False

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, region: str | None) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint_url
        self._region = region
        options = {"url": self.url, "endpointurl": endpoint_url, "region": region}
        self.dvc_remote: Mapping[str, str] = {name: value for name, value in options.items() if value}
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
            client = session.client(
                "s3",
                endpoint_url=self._endpoint,
                region_name=self._region or session.region_name or "us-east-1",
                config=BotoConfig(
                    retries={"mode": "adaptive", "total_max_attempts": _TRIES},
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    max_pool_connections=32,
                    s3={"payload_signing_enabled": False},
                ),
            )
            client.meta.events.register("after-call.s3", _count_retries)
            self._clients[process] = client
        return self._clients[process]

    def get(self, key: str) -> bytes:
        return self._read(key)

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="get") as pool:
            yield from pool.map(self.get, keys)

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return self._read(key, Range=f"bytes={offset}-{offset + size - 1}") if size else b""

    def _read(self, key: str, **options: str) -> bytes:
        """Returns a body; one that breaks off is asked for again, which the client itself doesn't do."""
        tries = _Tries()
        with self._mapped(key):
            while True:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **options)
                try:
                    body: bytes = answer["Body"].read()
                except BROKEN_OFF:
                    if not tries.another(answer):
                        raise
                else:
                    return body

    def size(self, key: str) -> int | None:
        with self._mapped(key):
            try:
                return int(self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"])
            except ClientError as error:
                if code_of(error) in MISSING:
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
        tries = _Tries()
        with self._mapped(key):
            while True:
                try:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=self._key(key),
                        Body=data,
                        ChecksumSHA256=checksum,
                        ContentType=_content_type(key),
                        **condition,
                    )
                except ClientError as error:
                    if if_absent and code_of(error) in STANDS_THERE:
                        return False
                    if code_of(error) not in CONFLICT or not tries.another(error.response):
                        raise
                else:
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
        """Puts a small object that stays, so that no right to delete is needed, on condition that there is none: where
        one stands that must be refused, and only who may write is told so."""
        if self.put(PROBE, b"", if_absent=True) and self.put(PROBE, b"", if_absent=True):
            raise StoreError(
                f"{self._where}: ignores If-None-Match, so two workers could overwrite each other's records; use a "
                "server that honours conditional puts"
            )

    @property
    def folder(self) -> None:
        return None

    def link_to(self, key: str) -> str:
        what = {"Bucket": self._bucket, "Key": self._key(key)}
        link: str = self._client.generate_presigned_url("get_object", what, ExpiresIn=_LINK_S)
        return link

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    @property
    def _where(self) -> str:
        return f"store {self.url}" + (f" at {self._endpoint}" if self._endpoint else "")

    @contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise as_ours(error, self._where, key, self._bucket) from error


class _Tries:
    """Counts the requests of one call and waits before the next."""

    def __init__(self) -> None:
        self._spent = 0

    def another(self, answer: Mapping[str, Any]) -> bool:
        """Returns, after a pause, True if what led to this answer may be repeated."""
        self._spent += 1 + answer["ResponseMetadata"].get("RetryAttempts", 0)
        if self._spent >= _TRIES:
            return False
        count("retries", of="store")
        time.sleep(random.uniform(0, 0.2 * 2**self._spent))
        return True


def open_url(config: StoreConfig, root: Path) -> S3Store:
    """Returns the store of s3://bucket/prefix.

    Raises:
        ConfigError: no bucket is named.
    """
    bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"store.url {config.url!r} names no bucket; expected s3://bucket/prefix")
    return S3Store(bucket, prefix.strip("/"), config.endpoint_url, config.region)


@lru_cache(maxsize=1)
def _loader() -> Loader:
    """The reader of botocore's service descriptions, which take it half a second; forked workers inherit them."""
    return create_loader()


def _content_type(key: str) -> str:
    """Returns what a browser is told of an object, so that a page opens instead of being saved."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
