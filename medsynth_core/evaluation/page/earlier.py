"""The releases that a page compares its own with: the last of the same name, and the parent if that is another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medsynth_core.release.reader import Release
from medsynth_core.storage.index import ReleaseEntry, list_tags, read_entry, versions
from medsynth_core.storage.reports import read_metrics
from medsynth_core.storage.store import ObjectStore


@dataclass(frozen=True)
class Earlier:
    """A release of the store.

    Attributes:
        metrics: what the stage ``report`` wrote of it (``metrics.json``); None when no page of it was recorded.
    """

    entry: ReleaseEntry
    metrics: dict[str, Any] | None

    @property
    def tag(self) -> str:
        return self.entry.tag


def earlier_releases(store: ObjectStore, release: Release) -> list[Earlier]:
    """Returns what to compare a release with, the last one first.

    The last one is the version below the release's own, or the newest while the release has none. So recording a
    release doesn't change what its page says.

    Raises:
        CorruptObjectError: a record can't be read.
    """
    name, parent = release.info["name"], release.info.get("parent")
    entries = [read_entry(store, f"{name}-v{version}") for version in versions(list_tags(store), name)]
    own = next((place for place, entry in enumerate(entries) if entry.dir_md5 == release.dir_md5), len(entries))
    chosen = entries[:own][-1:]
    if parent and all(entry.tag != parent["tag"] for entry in chosen):
        chosen.append(read_entry(store, parent["tag"]))
    return [Earlier(entry, read_metrics(store, entry.tag)) for entry in chosen]
