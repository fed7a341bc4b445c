"""The releases that a store holds, one small record each: ``releases/<tag>.json``.

A version number is claimed by a conditional put, so that two teams that publish at once get two. The record protects
a release's objects from ``medsynth gc`` in every clone, and opens it without git.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core.errors import CorruptObjectError, InputError
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.content import check_content, content_key
from medsynth_core.storage.store import ObjectStore

_FOLDER = "releases/"


class RunRecord(BaseModel):
    """Where a release comes from; it says nothing of what is in it, so it is in no hash.

    Attributes:
        flow_run: id of the run in Prefect; None: it was made by ``dvc repro``.
        host: of the flow.
        code: commit of the medsynth that made it, with ``-dirty`` where files differ; None outside a git repository.
        packages: SHA-256 of the names and versions of all installed packages: equal where one lock was installed.
        changes: parameters that were otherwise than in params.yaml for this run alone, by their dotted names.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    flow_run: str | None
    host: str
    code: str | None
    packages: str
    changes: dict[str, Any]


class ReleaseEntry(BaseModel):
    """One published version.

    Attributes:
        tag: NAME-vN, also a git tag of the workspace.
        dir_md5: hash of the dataset in DVC's terms, ``....dir``.
        parent: tag of the release that it extends, or None.
        commit: of the workspace's git repository.
        run: that made it; None in records of versions that noted none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tag: str
    dir_md5: str
    n_files: int
    n_bytes: int
    counts: Counts
    spec_hash: str
    parent: str | None
    commit: str
    generator_version: str
    run: RunRecord | None = None


def read_entry(store: ObjectStore, tag: str) -> ReleaseEntry:
    """Returns the record of a release.

    Raises:
        InputError: the store holds no such release; names the nearest.
        CorruptObjectError: the record can't be read.
    """
    key = f"{_FOLDER}{tag}.json"
    if store.size(key) is None:
        raise InputError(f"{store.url}: no release {tag!r}; it has {', '.join(list_tags(store)) or 'none'}")
    try:
        return ReleaseEntry.model_validate_json(store.get(key))
    except ValidationError as error:
        raise CorruptObjectError(f"{store.url}: {key}: {error.errors()[0]['msg']}; restore it from a backup") from error


def find_entry(store: ObjectStore, dir_md5: str | None) -> ReleaseEntry | None:
    """Returns the newest record of a dataset, or None when the store has none."""
    entries = (read_entry(store, tag) for tag in reversed(list_tags(store)))
    return next((entry for entry in entries if entry.dir_md5 == dir_md5), None)


def versions(tags: Iterable[str], name: str) -> list[int]:
    """Returns the versions that a dataset has among tags, oldest first; other tags are passed over."""
    return sorted(int(found[1]) for tag in tags if (found := re.fullmatch(re.escape(name) + r"-v(\d+)", tag)))


def list_tags(store: ObjectStore) -> list[str]:
    """Returns the tags of all releases, by name and version."""
    found = []
    for stored in store.list(_FOLDER):
        tag = stored.key.removeprefix(_FOLDER).removesuffix(".json")
        if re.fullmatch(r".+-v\d+", tag):
            found.append(tag)
    return sorted(found, key=split_tag)


def newest_release_at(store: ObjectStore) -> datetime | None:
    """Returns when the newest record of any release was written, or None when there is none."""
    return max((stored.modified for stored in store.list(_FOLDER)), default=None)


def split_tag(tag: str) -> tuple[str, int]:
    """Returns the name and the version of NAME-vN."""
    name, _, version = tag.rpartition("-v")
    return name, int(version)


def claim(store: ObjectStore, name: str, taken: int, entry: Callable[[str], ReleaseEntry]) -> ReleaseEntry:
    """Writes the record of a new version, or finds the one that a cut-off attempt wrote, and returns it.

    Args:
        taken: the highest version that is known to be taken elsewhere (by a git tag).
        entry: makes the record of a tag.
    """
    version = max([taken, *versions(list_tags(store), name)])
    if version <= taken:
        version += 1
    while not write_entry(store, mine := entry(f"{name}-v{version}")):
        there = read_entry(store, mine.tag)
        if there.dir_md5 == mine.dir_md5:
            return there
        version += 1
    return mine


def write_entry(store: ObjectStore, entry: ReleaseEntry) -> bool:
    """Writes a release's record and returns True, or False when its tag has one."""
    data = json.dumps(entry.model_dump(mode="json"), sort_keys=True, indent=1).encode()
    return store.put(f"{_FOLDER}{entry.tag}.json", data, if_absent=True)


def read_files(store: ObjectStore, dir_md5: str, where: str) -> dict[str, str]:
    """Returns the MD5 of every file of a dataset by its path, from DVC's directory object.

    Raises:
        CorruptObjectError: the list is missing or damaged, or a path leaves the dataset.
    """
    if store.size(content_key(dir_md5)) is None:
        raise CorruptObjectError(f"{where}: the list of files ({content_key(dir_md5)}) is not in {store.url}")
    data = check_content(store.get(content_key(dir_md5)), dir_md5, f"{where}: list of files")
    return {_inside(entry["relpath"], where): entry["md5"] for entry in json.loads(data)}


def _inside(relpath: str, where: str) -> str:
    path = PurePosixPath(relpath)
    if not path.parts or ".." in path.parts or path.is_absolute():
        raise CorruptObjectError(f"{where}: path {relpath!r} leaves the release")
    return relpath
