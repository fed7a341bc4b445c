"""Object stores (contract C9): one URL picks a local folder or an S3 bucket; both do the same.

To add a store is to add its module with ``open_url`` to ``stores``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from medsynth_core.config.plugins import Plugins
from medsynth_core.errors import ConfigError, StoreError
from medsynth_core.storage.settings import StoreConfig

PROBE = "runs/.writable"
"""What ``check_writable`` may leave."""

STORES = Plugins("medsynth_core.storage.stores", "store.url", "open_url")
"""By the scheme of the URL. Loaded when one is asked for: a client of S3 takes half a second."""
_PATHS = "local"


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

    Attributes:
        dvc_remote: options of the store as a DVC remote, its ``url`` among them.
        is_dvc_cache: whether DVC takes the store for its cache too, so that a checkout costs links alone.
        folder: where it lies on a disk of this machine; None elsewhere.
    """

    url: str
    dvc_remote: Mapping[str, str]
    is_dvc_cache: bool

    @property
    def folder(self) -> Path | None: ...

    def link_to(self, key: str) -> str | None:
        """Returns an address at which a browser finds an object for a week, or None where there is none."""
        ...

    def get(self, key: str) -> bytes:
        """Returns an object's bytes."""
        ...

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yields the bytes of many small objects, in the order of their keys; several are asked for at once where
        that takes less time."""
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
        """Raises StoreError, before expensive work, when writing can't succeed or a conditional put isn't one."""
        ...


def open_store(config: StoreConfig, root: Path) -> ObjectStore:
    """Returns the store of ``store.url``; a relative path is below ``root``.

    Raises:
        ConfigError: the URL has another scheme.
    """
    scheme = _scheme(config.url)
    if scheme not in STORES.names():
        others = " or ".join(f"{name}://bucket/prefix" for name in STORES.names() if name != _PATHS)
        raise ConfigError(f"store.url {config.url!r}: expected a local path or {others}")
    store: ObjectStore = STORES.open(scheme, config, root)
    return store


def is_store_url(place: str) -> bool:
    """Returns whether a place is the URL of a store, not a path and not a URL of something else."""
    scheme = _scheme(place)
    return scheme != _PATHS and scheme in STORES.names()


def _scheme(url: str) -> str:
    """Returns the scheme of a URL, ``local`` of a path."""
    return url.partition("://")[0] if "://" in url else _PATHS


def check_key(key: str) -> str:
    """Returns the key.

    Raises:
        StoreError: it is empty, absolute or climbs.
    """
    parts = key.split("/")
    if not key or key.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise StoreError(f"invalid object key {key!r}")
    return key
