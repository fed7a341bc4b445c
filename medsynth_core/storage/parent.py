"""The release that another one is added to: read from the store alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from medsynth_core.errors import CorruptObjectError
from medsynth_core.storage.content import check_content, content_key
from medsynth_core.storage.index import ReleaseEntry, read_entry, read_files
from medsynth_core.storage.parquet import read_parquet
from medsynth_core.storage.store import ObjectStore
from medsynth_core.storage.withdrawn import refuse_withdrawn

_KEPT = ("shards/", "manifest/", "rejected/")
"""Folders whose objects the next release takes over as they are."""


@dataclass(frozen=True)
class KeptObject:
    """An object that stands in the store already."""

    relpath: str
    md5: str


@dataclass(frozen=True)
class Parent:
    """A release to add to.

    Attributes:
        info: its ``release.json``.
        kept: the objects that are taken over.
    """

    entry: ReleaseEntry
    info: dict[str, Any]
    kept: tuple[KeptObject, ...]


def open_parent(store: ObjectStore, tag: str) -> Parent:
    """Returns a release to add to.

    Raises:
        InputError: the store holds no such release.
        WithdrawnError: it was taken back.
        CorruptObjectError: its list of files or release.json is damaged.
    """
    entry = read_entry(store, tag)
    refuse_withdrawn(store, entry.dir_md5, "nothing is added to it; name another release.parent, or none")
    files = read_files(store, entry.dir_md5, tag)
    kept = tuple(KeptObject(path, md5) for path, md5 in sorted(files.items()) if path.startswith(_KEPT))
    if "release.json" not in files:
        raise CorruptObjectError(f"{tag}: the release has no file 'release.json'")
    return Parent(entry, json.loads(_read(store, files["release.json"], f"{tag}: release.json")), kept)


def parent_rows(store: ObjectStore, tag: str, wanted: pa.Schema) -> Iterator[pa.Table]:
    """Yields the wanted columns of each manifest part of a release, in order of its path.

    Raises:
        InputError: the store holds no such release.
        CorruptObjectError: an object is damaged.
    """
    for path, md5 in sorted(read_files(store, read_entry(store, tag).dir_md5, tag).items()):
        if path.startswith("manifest/"):
            yield read_parquet(_read(store, md5, f"{tag}: {path}"), wanted)


def _read(store: ObjectStore, md5: str, where: str) -> bytes:
    return check_content(store.get(content_key(md5)), md5, where)
