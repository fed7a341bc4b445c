"""Releases that were taken back: a mark in the store, ``withdrawn/<dir_md5>.json``, which every reader asks for."""

from __future__ import annotations

import json
import logging
import socket
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core.errors import CorruptObjectError, StoreError, WithdrawnError
from medsynth_core.storage.index import ReleaseEntry
from medsynth_core.storage.store import ObjectStore

_FOLDER = "withdrawn/"
_log = logging.getLogger(__name__)


class Withdrawal(BaseModel):
    """Why a release was taken back.

    Attributes:
        dir_md5: hash of the dataset: it is withdrawn under every tag.
        when: UTC, ISO 8601.
        host: on which it was withdrawn.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    tag: str
    dir_md5: str
    reason: str
    when: str
    host: str

    def __str__(self) -> str:
        return f"{self.tag} was withdrawn on {self.when[:10]}: {self.reason}"


def withdraw(store: ObjectStore, entry: ReleaseEntry, reason: str) -> Withdrawal:
    """Marks a release as taken back and returns the mark, an earlier one where it has one already."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    mark = Withdrawal(tag=entry.tag, dir_md5=entry.dir_md5, reason=reason, when=when, host=socket.gethostname())
    data = json.dumps(mark.model_dump(mode="json"), sort_keys=True, indent=1).encode()
    if store.put(_key(entry.dir_md5), data, if_absent=True):
        return mark
    return read_withdrawal(store, entry.dir_md5) or mark


def read_withdrawal(store: ObjectStore, dir_md5: str) -> Withdrawal | None:
    """Returns the mark of a dataset, or None when it has none.

    Raises:
        CorruptObjectError: the mark can't be read.
    """
    key = _key(dir_md5)
    try:
        if store.size(key) is None:
            return None
        data = store.get(key)
    except StoreError as error:  # S3 tells those who may not list a bucket of no missing object
        _log.warning("it can't be told whether the release was withdrawn (%s)", error)
        return None
    try:
        return Withdrawal.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(
            f"{store.url}: {key}: {error.errors()[0]['msg']}; withdraw the release again"
        ) from error


def refuse_withdrawn(store: ObjectStore, dir_md5: str, what_to_do: str) -> None:
    """Raises WithdrawnError where a release was taken back.

    Args:
        what_to_do: the end of the message.
    """
    if (mark := read_withdrawal(store, dir_md5)) is not None:
        raise WithdrawnError(f"{store.url}: {mark}; {what_to_do}")


def withdrawn_datasets(store: ObjectStore) -> set[str]:
    """Returns the hashes of all datasets that were taken back."""
    return {stored.key.removeprefix(_FOLDER).removesuffix(".json") for stored in store.list(_FOLDER)}


def _key(dir_md5: str) -> str:
    return f"{_FOLDER}{dir_md5}.json"
