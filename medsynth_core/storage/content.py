"""Content addressing as DVC does it: an object's place is the MD5 of its bytes (contract C4)."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from medsynth_core.errors import CorruptObjectError
from medsynth_core.storage.store import ObjectStore

CONTENT = "files/md5/"
"""Where a DVC remote keeps objects."""
_ASKED_FOR_FIRST = 8 * 2**20
"""Objects of so many bytes are looked for before they are sent; for smaller ones the question costs what it saves."""


class ObjectRef(BaseModel):
    """One object of a dataset: its path there, its MD5 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    relpath: str
    md5: str
    size: int


def content_key(md5: str) -> str:
    """Returns where DVC keeps an object: ``files/md5/xx/rest``; works for ``....dir`` too."""
    return f"{CONTENT}{md5[:2]}/{md5[2:]}"


def md5_of_key(key: str) -> str:
    """Returns the MD5 that ``content_key`` made a key of; keeps a ``.dir``."""
    return key.removeprefix(CONTENT).replace("/", "")


def check_content(data: bytes, md5: str, where: str) -> bytes:
    """Returns ``data``.

    Raises:
        CorruptObjectError: its MD5 is another.
    """
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5.removesuffix(".dir"):
        raise CorruptObjectError(f"{where}: MD5 is {found}, expected {md5}; fetch or make the object again")
    return data


def put_content(store: ObjectStore, relpath: str, data: bytes) -> ObjectRef:
    """Uploads ``data`` to its final place and returns its reference; to repeat it changes nothing."""
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    key = content_key(md5)
    put = len(data) < _ASKED_FOR_FIRST and store.put(key, data, if_absent=True)
    if not put and store.size(key) != len(data):
        store.put(key, data)
    return ObjectRef(relpath=relpath, md5=md5, size=len(data))


def get_content(store: ObjectStore, ref: ObjectRef) -> bytes:
    """Returns an object's bytes, checked.

    Raises:
        CorruptObjectError: they don't match the reference.
    """
    return check_content(store.get(content_key(ref.md5)), ref.md5, f"{store.url}: {ref.relpath}")
