"""Object stores (contract C9): one URL picks a local folder or an S3 bucket; both do the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from medsynth_core.errors import ConfigError, StoreError
from medsynth_core.storage.settings import StoreConfig


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of an object.

    Attributes:
        size: bytes.
        modified: when it was written, with a time zone.
        upload: of an unfinished upload, what the store calls it.
    """

    key: str
    size: int
    modified: datetime
    upload: str | None = None


class ObjectStore(Protocol):
    """Objects by key. Keys are relative POSIX paths.

    Every method raises StoreError when the store refuses for good (no such object, credentials, permission)
    and TransientError when a retry may help.
    """

    url: str

    def get(self, key: str) -> bytes:
        """Returns an object's bytes."""
        ...

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """Returns ``size`` bytes from ``offset``."""
        ...

    def size(self, key: str) -> int | None:
        """Returns an object's size in bytes, or None when there is none."""
        ...

    def sizes(self, folder: str, keys: Sequence[str]) -> Iterator[tuple[str, int | None]]:
        """Yields each of many distinct keys with its object's size, or None, in any order.

        Args:
            folder: with its slash; all keys begin with it.
        """
        ...

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Writes an object whole, its checksum verified; returns False, and writes nothing, when ``if_absent``
        is set and the object stands there."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose keys begin with ``prefix``, a folder's with its slash, sorted by key."""
        ...

    def unfinished(self) -> Iterator[StoredObject]:
        """Yields uploads that were begun and not ended: in work, or left by a killed writer."""
        ...

    def discard(self, unfinished: StoredObject) -> None:
        """Drops an unfinished upload."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object if it is there."""
        ...

    def check_writable(self) -> None:
        """Raises StoreError, before expensive work, when writing can't succeed."""
        ...


def open_store(config: StoreConfig, root: Path) -> ObjectStore:
    """Returns the store of ``store.url``; a relative path is below ``root``.

    Raises:
        ConfigError: the URL has another scheme.
    """
    scheme, sign, rest = config.url.partition("://")
    if not sign:
        from medsynth_core.storage.local import LocalStore

        return LocalStore((root / Path(config.url).expanduser()).resolve())
    if scheme == "s3":
        from medsynth_core.storage.s3 import S3Store

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise ConfigError(f"store.url {config.url!r} names no bucket; expected s3://bucket/prefix")
        return S3Store(bucket, prefix.strip("/"), config.endpoint_url, config.region)
    raise ConfigError(f"store.url {config.url!r}: expected a local path or s3://bucket/prefix")


def check_key(key: str) -> str:
    """Returns the key.

    Raises:
        StoreError: it is empty, absolute or climbs.
    """
    parts = key.split("/")
    if not key or key.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise StoreError(f"invalid object key {key!r}")
    return key
