"""What a store holds that nothing needs: objects that no release, DVC file or run names, and broken uploads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medsynth_core.errors import StateError
from medsynth_core.storage.content import CONTENT, content_key, md5_of_key
from medsynth_core.storage.index import list_tags, read_entry
from medsynth_core.storage.store import PROBE, ObjectStore, StoredObject
from medsynth_core.storage.withdrawn import withdrawn_datasets
from medsynth_core.synthesis.published import MODELS
from medsynth_core.workspace.repository import git

_MD5 = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
_DVC_FILES = ("*.dvc", "*dvc.lock")


@dataclass(frozen=True)
class Garbage:
    """What can go.

    Attributes:
        objects: named by nothing.
        uploads: begun and not ended.
        runs: records, plans and marks of runs other than the workspace's; only when asked for.
        young: objects and uploads that were left out because a writer may be at work on them.
    """

    objects: tuple[StoredObject, ...]
    uploads: tuple[StoredObject, ...]
    runs: tuple[StoredObject, ...]
    young: int

    @property
    def n_bytes(self) -> int:
        return sum(each.size for each in (*self.objects, *self.uploads, *self.runs))


def find_garbage(root: Path, store: ObjectStore, older_than: timedelta, runs: bool = False) -> Garbage:
    """Returns what of a store can go.

    Kept is what a release of this store lists that wasn't withdrawn, what any DVC file of any revision of this
    repository names, what a completion record names, and the models of runs. With ``runs``, the records of all runs but
    the workspace's last are garbage too, and with them what they alone name: a run that was cut off would begin anew.
    The records of a withdrawn release's own shards always are.

    Args:
        older_than: younger objects are never garbage: their record may be about to be written.

    Raises:
        StateError: a list of files can't be read, so that nothing can be said.
    """
    own_runs = _own_runs(root)
    records: list[StoredObject] = []
    old_runs: list[StoredObject] = []
    for stored in store.list("runs/"):
        if stored.key == PROBE:
            continue
        mine = stored.key.split("/")[1] in own_runs
        (records if mine or not runs else old_runs).append(stored)
    withdrawn = withdrawn_datasets(store)
    needed = _closed({*_in_repository(root), *_of_releases(store)} - withdrawn, store)
    models: set[str] = set()
    taken_back = _closed(withdrawn, store) - needed
    for stored in records:
        if stored.key.endswith("/run.json"):
            models.update(_SHA256.findall(store.get(stored.key).decode()))
            continue
        named = _named_by(stored, store)
        if taken_back.isdisjoint(named):
            needed |= _closed(named, store)
        else:
            old_runs.append(stored)
    limit = datetime.now(UTC) - older_than
    spare = [each for each in store.list(CONTENT) if md5_of_key(each.key) not in needed]
    spare += [each for each in store.list(MODELS) if each.key.removeprefix(MODELS).replace("/", "") not in models]
    uploads = list(store.unfinished())
    found = [[each for each in every if each.modified < limit] for every in (spare, uploads, old_runs)]
    objects, broken, gone = found
    young = len(spare) + len(uploads) + len(old_runs) - sum(map(len, found))
    return Garbage(tuple(objects), tuple(broken), tuple(gone), young)


def collect_garbage(store: ObjectStore, garbage: Garbage) -> None:
    """Deletes it: records before the objects that they name."""
    for each in (*garbage.runs, *garbage.objects):
        store.delete(each.key)
    for each in garbage.uploads:
        store.discard(each)


def _own_runs(root: Path) -> set[str]:
    """Returns the runs whose shards the workspace lists."""
    found = set()
    for stage in ("synthesis", "deduplicate"):
        path = root / "data" / stage / "shards.json"
        if path.is_file():
            found.update(json.loads(path.read_text("utf-8"))["run_ids"])
    return found


def _in_repository(root: Path) -> Iterator[str]:
    """Yields every hash in a DVC file of the working tree or of any commit."""
    present = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "--", *_DVC_FILES).splitlines()
    for path in (*(root / name for name in present), *(root / "data").glob("*/shards.json")):
        if path.is_file():
            yield from _MD5.findall(path.read_text("utf-8"))
    listed = git(root, "rev-list", "--all", "--reflog", "--objects", "--", *_DVC_FILES)
    for line in listed.splitlines():
        blob, _, name = line.partition(" ")
        if name.endswith((".dvc", "dvc.lock")):
            yield from _MD5.findall(git(root, "cat-file", "-p", blob))


def _of_releases(store: ObjectStore) -> Iterator[str]:
    for tag in list_tags(store):
        yield read_entry(store, tag).dir_md5


def _named_by(record: StoredObject, store: ObjectStore) -> set[str]:
    """Returns every hash in a completion record; a run's other objects name none."""
    return set(_MD5.findall(store.get(record.key).decode())) if "/shards/" in record.key else set()


def _closed(hashes: set[str], store: ObjectStore) -> set[str]:
    """Returns the hashes with those that directory objects among them list."""
    every = set(hashes)
    for md5 in hashes:
        if md5.endswith(".dir") and store.size(content_key(md5)) is not None:
            try:
                every.update(entry["md5"] for entry in json.loads(store.get(content_key(md5))))
            except (ValueError, KeyError, TypeError) as error:
                raise StateError(
                    f"{store.url}: {content_key(md5)} can't be read; restore it before `medsynth gc`"
                ) from error
    return every
