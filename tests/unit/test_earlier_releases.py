"""Which releases a page is compared with, and what is known of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from medsynth_core.errors import CorruptObjectError
from medsynth_core.evaluation.page.earlier import earlier_releases
from medsynth_core.release.reader import Release
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.index import ReleaseEntry, list_tags, write_entry
from medsynth_core.storage.reports import METRICS, put_report, read_metrics, report_key
from medsynth_core.storage.stores.local import LocalStore


def recorded(store: LocalStore, tag: str, dir_md5: str) -> None:
    entry = ReleaseEntry(
        tag=tag,
        dir_md5=dir_md5,
        n_files=1,
        n_bytes=1,
        counts=Counts(requested=1, accepted=1),
        spec_hash="a",
        parent=None,
        commit="c",
        generator_version="0",
    )
    assert write_entry(store, entry)


def compared(store: LocalStore, dir_md5: str, parent: str | None = None) -> list[str]:
    release = Release("here", store, {}, dir_md5)
    info: dict[str, Any] = {"name": "x", "parent": {"tag": parent} if parent else None}
    release.__dict__["info"] = info
    return [each.tag for each in earlier_releases(store, release)]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path)
    for tag in ("x-v1", "x-v2", "x-v10", "x-y-v7", "y-v3"):
        recorded(made, tag, f"{tag}.dir")
    return made


def test_it_is_the_newest_of_the_name_until_the_release_has_a_version(store: LocalStore) -> None:
    assert compared(store, "new.dir") == ["x-v10"]
    recorded(store, "x-v11", "new.dir")
    assert compared(store, "new.dir") == ["x-v10"], "recording a release must not change its page"
    assert compared(store, "x-v2.dir") == ["x-v1"]
    assert compared(store, "x-v1.dir") == []


def test_a_parent_of_another_line_is_compared_too(store: LocalStore) -> None:
    assert compared(store, "new.dir", "x-v10") == ["x-v10"]
    assert compared(store, "new.dir", "x-v1") == ["x-v10", "x-v1"]
    assert compared(store, "new.dir", "y-v3") == ["x-v10", "y-v3"]


def test_figures_are_those_of_the_newest_page(store: LocalStore) -> None:
    assert read_metrics(store, "x-v1") is None
    for n in (1, 2, 2):
        put_report(store, "x-v1", b"<p>", json.dumps({"n": n}).encode())
    assert read_metrics(store, "x-v1") == {"n": 2}
    assert {each.key for each in store.list("reports/")} == {report_key("x-v1"), report_key("x-v1", METRICS)}
    assert "reports" not in "".join(list_tags(store))
    store.put(report_key("x-v1", METRICS), b"{")
    with pytest.raises(CorruptObjectError, match=r"reports/x-v1/metrics\.json is no JSON"):
        read_metrics(store, "x-v1")
