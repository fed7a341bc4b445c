"""One suite for both stores."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsynth_core.errors import (
    ConfigError,
    CorruptObjectError,
    InputError,
    MedsynthError,
    SpecMismatchError,
    StoreError,
    TransientError,
)
from medsynth_core.release.source import find_release
from medsynth_core.storage import stores
from medsynth_core.storage.completion import CompletionRecord, Counts, finished_shards, record_key, write_record
from medsynth_core.storage.content import content_key, get_content, put_content
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import PROBE, ObjectStore, open_store
from medsynth_core.storage.stores import s3
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.workspace.init import configure_store
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return open_store(StoreConfig(url="store"), tmp_path)
    return open_store(request.getfixturevalue("s3_store"), tmp_path)


def record(store: ObjectStore, accepted: int = 2, run_id: str = "run", n_shards: int = 3) -> CompletionRecord:
    part = put_content(store, "manifest/part-00000.parquet", b"rows")
    return CompletionRecord(
        run_id=run_id,
        shard=1,
        n_shards=n_shards,
        tar=put_content(store, "shards/shard-00001.tar", b"tar"),
        manifest=part,
        rejected=part,
        counts=Counts(requested=2, accepted=accepted, rejected={"duplicate:release": 2 - accepted}),
    )


def test_objects_are_written_read_listed_and_deleted(store: ObjectStore) -> None:
    store.check_writable()
    assert store.put("a/one.bin", b"0123456789")
    assert store.get("a/one.bin") == b"0123456789"
    assert store.get_range("a/one.bin", 3, 4) == b"3456"
    assert store.size("a/one.bin") == 10
    assert store.size("a/none.bin") is None
    store.put("a/two.bin", b"")
    store.put("ab.bin", b"")
    assert [(found.key, found.size) for found in store.list("a/")] == [("a/one.bin", 10), ("a/two.bin", 0)]
    assert [found.key for found in store.list("a")] == ["a/one.bin", "a/two.bin", "ab.bin"]
    age = datetime.now(UTC) - next(store.list("ab")).modified
    assert abs(age.total_seconds()) < 600
    store.delete("a/one.bin")
    store.delete("a/one.bin")
    with pytest.raises(StoreError, match="no such object"):
        store.get("a/one.bin")


def test_a_check_leaves_at_most_the_probe_and_may_be_repeated(store: ObjectStore) -> None:
    for _ in range(2):
        store.check_writable()
    assert {found.key for found in store.list("")} <= {PROBE}
    assert list(store.unfinished()) == []


def test_a_link_opens_in_a_browser_without_credentials(store: ObjectStore) -> None:
    store.put("reports/a b.html", b"<p>page</p>")
    link = store.link_to("reports/a b.html")
    if store.is_dvc_cache:
        assert link is None, "a browser opens no file"
    else:
        assert link is not None
        assert urllib.request.urlopen(link, timeout=10).read() == b"<p>page</p>"


_NAMES = st.text(st.sampled_from("ab-./_0Zé+"), min_size=1, max_size=6)


@given(keys=st.sets(_NAMES, min_size=1, max_size=8), prefix=st.text(st.sampled_from("ab-/"), max_size=2))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_stores_list_alike(keys: set[str], prefix: str, s3_store: StoreConfig, tmp_path: Path) -> None:
    """'a-b' comes before 'a/b', as on S3, though a path compares the other way round."""
    folder = uuid4().hex
    stores = [open_store(StoreConfig(url="store"), tmp_path), open_store(s3_store, tmp_path)]
    valid = {key for key in keys if all(part not in {"", ".", ".."} for part in key.split("/"))}
    files = {key for key in valid if not any(other.startswith(f"{key}/") for other in valid)}
    for each in stores:
        for key in files:
            each.put(f"{folder}/{key}", b"")
    listed = [[found.key for found in each.list(f"{folder}/{prefix}")] for each in stores]
    assert listed[0] == listed[1] == sorted(f"{folder}/{key}" for key in files if key.startswith(prefix))


@pytest.mark.parametrize("listed_a_key", [0, 1, 50])
def test_sizes_of_many_are_told_at_once(store: ObjectStore, listed_a_key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some by a listing, of the rest one by one."""
    monkeypatch.setattr(s3, "_LISTED_A_KEY", listed_a_key)
    for number in range(9):
        store.put(f"sized/{number}/x", b"." * number)
    wanted = ["sized/8/x", "sized/1/x", "sized/5/none", "sized/9/none"]
    assert dict(store.sizes("sized/", wanted)) == dict(zip(wanted, [8, 1, None, None], strict=True))
    assert dict(store.sizes("sized/", [])) == {}


def test_of_many_racing_writers_one_wins(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.put("race", str(i).encode(), if_absent=True), range(16)))
    assert won.count(True) == 1
    assert store.get("race") == str(won.index(True)).encode()


@pytest.mark.parametrize("key", ["../up", "/abs", "", "a//b", "a/../b"])
def test_a_key_that_leaves_the_store_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(StoreError, match="invalid object key"):
        store.put(key, b"x")


def test_content_is_stored_once_and_checked_when_read(store: ObjectStore) -> None:
    first = put_content(store, "a.txt", b"hello")
    assert put_content(store, "a.txt", b"hello") == first
    assert content_key(first.md5) == "files/md5/5d/41402abc4b2a76b9719d911017c592"
    store.put(content_key(first.md5), b"hellO")
    with pytest.raises(CorruptObjectError, match=r"a\.txt"):
        get_content(store, first)


def test_two_workers_on_one_shard_leave_one_result(store: ObjectStore) -> None:
    first, second = record(store, accepted=2), record(store, accepted=1)
    assert write_record(store, first) == first
    assert write_record(store, second) == first, "the loser takes the winner's"
    assert finished_shards(store, "run", 3) == {1: first}


def test_records_are_read_in_any_number_and_known_ones_not_again(store: ObjectStore) -> None:
    made = record(store, n_shards=100)
    records = {shard: made.model_copy(update={"shard": shard}) for shard in range(0, 100, 2)}
    for each in records.values():
        write_record(store, each)
    store.put("runs/run/shards/notes.txt", b"not a record")
    keys = [record_key("run", shard) for shard in (4, 0, 98)]
    assert list(store.get_many(keys)) == [store.get(key) for key in keys]
    with pytest.raises(StoreError, match="no such object"):
        list(store.get_many([*keys, "none"]))
    assert list(finished_shards(store, "run", 100).items()) == sorted(records.items())
    for shard in range(0, 98, 2):
        store.put(record_key("run", shard), b"broken since")
    store.delete(record_key("run", 0))
    known = {shard: each for shard, each in records.items() if shard < 98}
    found = finished_shards(store, "run", 100, known)
    assert found == {shard: each for shard, each in records.items() if shard}, "a record that went is none"
    with pytest.raises(CorruptObjectError, match=r"00002\.json"):
        finished_shards(store, "run", 100)


def test_a_record_of_another_plan_is_never_mixed_in(store: ObjectStore) -> None:
    write_record(store, record(store))
    with pytest.raises(SpecMismatchError, match="shard 1 of 3; expected run, shard 1 of 4"):
        finished_shards(store, "run", 4)
    store.put(record_key("run", 1), b"{}")
    with pytest.raises(CorruptObjectError):
        finished_shards(store, "run", 3)
    store.put(
        record_key("run", 1), record(store, accepted=1).model_copy(update={"rejected": None}).model_dump_json().encode()
    )
    with pytest.raises(CorruptObjectError, match="rejected images are counted and not listed"):
        finished_shards(store, "run", 3)


def test_a_store_that_cannot_be_used_says_so_in_one_line(tmp_path: Path, s3_store: StoreConfig) -> None:
    (tmp_path / "file").write_text("")
    wrong = [
        (StoreConfig(url="file/below"), "can't be written"),
        (StoreConfig(url="s3://no-such-bucket-here/x", endpoint_url=s3_store.endpoint_url), "no bucket"),
        (StoreConfig(url="s3://b/x", endpoint_url="http://127.0.0.1:9"), "can't be reached"),
        (StoreConfig(url="s3://bucket/x", endpoint_url="localhost:9000"), "Invalid endpoint"),
        (StoreConfig(url="s3://no such bucket/x", endpoint_url=s3_store.endpoint_url), "Invalid bucket name"),
    ]
    for config, message in wrong:
        with pytest.raises(MedsynthError, match=message) as caught:
            open_store(config, tmp_path).check_writable()
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, TransientError) == ("can't be reached" in message), "only that may pass"
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_store(StoreConfig(url="gs://b"), tmp_path)
    with pytest.raises(ConfigError, match="names no bucket"):
        open_store(StoreConfig(url="s3:///prefix"), tmp_path)


def test_a_folder_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By them alone is a record written once. Patched, since a file system without them can't be had everywhere."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(StoreError, match=r"store: its file system makes no hard links \(Operation not permitted\)"):
        open_store(StoreConfig(url="store"), tmp_path).check_writable()
    assert list((tmp_path / "store").iterdir()) == []


def test_a_new_store_is_one_module(tmp_path: Path, s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC is told of it, and a release is looked for in it, without another word."""
    module = ModuleType("medsynth_core.storage.stores.shelf")
    module.open_url = lambda config, root: ShelfStore(root / config.url.removeprefix("shelf://"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "shelf.py").touch()
    monkeypatch.setattr(stores, "__path__", [*stores.__path__, str(tmp_path / "stores")])
    config = Config(store=StoreConfig(url="shelf://books"))
    (tmp_path / ".dvc").mkdir()
    configure_store(tmp_path, config)
    text = (tmp_path / ".dvc" / "config").read_text()
    assert "    url = shelf://books\n    account = team\n" in text
    assert "[cache]" not in text
    with pytest.raises(InputError, match="no release in this store"):
        find_release(f"shelf://{tmp_path / 'books'}", None, None)


class ShelfStore(LocalStore):
    """A store that some other scheme opens."""

    is_dvc_cache = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.dvc_remote = {"url": "shelf://books", "account": "team"}


@pytest.mark.parametrize("url", ["store", "nested/../store", "{root}/elsewhere"])
def test_dvc_finds_a_local_store_from_where_it_is(tmp_path: Path, url: str) -> None:
    """A relative one stays relative, so that a workspace can be moved."""
    config = Config(store=StoreConfig(url=url.format(root=tmp_path)))
    (tmp_path / ".dvc").mkdir()
    configure_store(tmp_path, config)
    text = (tmp_path / ".dvc" / "config").read_text()
    place = Path(re.findall("url = (.+)", text)[0])
    assert place.is_absolute() == url.startswith("{root}")
    assert (tmp_path / ".dvc" / place).resolve() == open_store(config.store, tmp_path).root  # type: ignore[attr-defined]
    assert f"    dir = {place}\n" in text


def test_missing_credentials_are_named(tmp_path: Path, s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        open_store(s3_store, tmp_path).check_writable()


def test_an_undecided_conditional_put_is_asked_again(s3_store: StoreConfig, tmp_path: Path) -> None:
    """A server answers 409 while another writer is at it; the stub says so, since no real server does so on demand."""
    store = open_store(s3_store, tmp_path)
    client: Any = store._client  # type: ignore[attr-defined]
    answers = iter([409, 409])

    def conflict(request: Any, **_: Any) -> AWSResponse | None:
        if next(answers, None) is None:
            return None
        body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
        response = AWSResponse("http://stub", 409, {}, io.BytesIO(body))
        response._content = body
        return response

    client.meta.events.register("before-send.s3.PutObject", conflict)
    assert store.put("record", b"mine", if_absent=True), "a conflict isn't a lost race"
    assert store.get("record") == b"mine"
    assert not store.put("record", b"other", if_absent=True)


def behind(proxy: Any, config: StoreConfig, root: Path) -> ObjectStore:
    return open_store(config.model_copy(update={"endpoint_url": proxy.endpoint}), root)


def test_a_download_that_breaks_off_is_asked_for_again(s3_store: StoreConfig, proxy: Any, tmp_path: Path) -> None:
    store, data = behind(proxy, s3_store, tmp_path), os.urandom(3_000_000)
    store.put("big", data)
    proxy.cuts["server"] = [1_000_000, 1_000_000]
    assert store.get("big") == data
    proxy.cuts["server"] += [500_000]
    assert store.get_range("big", 100, 2_000_000) == data[100:2_000_100]
    assert proxy.n_cut == 3


def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20, max_concurrency=2)
    monkeypatch.setattr(s3, "_IN_PARTS", small)


def test_a_browser_is_told_what_an_object_is(s3_store: StoreConfig, tmp_path: Path) -> None:
    store = open_store(s3_store, tmp_path)
    client = boto3.client("s3", endpoint_url=s3_store.endpoint_url, region_name=s3_store.region)
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    for key, kind in (("reports/a-v1/report.html", "text/html"), (content_key("0" * 32), "application/octet-stream")):
        store.put(key, b"<p>")
        assert client.head_object(Bucket=bucket, Key=f"{prefix}/{key}")["ContentType"] == kind


def test_a_large_object_goes_up_in_parts_and_a_broken_part_again(
    s3_store: StoreConfig, proxy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch)
    store, data = behind(proxy, s3_store, tmp_path), os.urandom(12 * 2**20)
    proxy.cuts["client"] = [2_000_000]
    assert store.put("big", data)
    assert proxy.n_cut == 1
    assert store.get("big") == data
    assert list(store.unfinished()) == []


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
def test_bytes_that_change_on_the_way_are_refused(
    operation: str, s3_store: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch)
    store = open_store(s3_store, tmp_path)
    client: Any = store._client  # type: ignore[attr-defined]

    def flip(request: Any, **_: Any) -> None:
        assert "x-amz-checksum-sha256" in str(request.headers["Authorization"]), "what is checked isn't signed"
        body = request.body if isinstance(request.body, bytes) else request.body.read()
        request.body = body[:100] + bytes([body[100] ^ 1]) + body[101:]

    client.meta.events.register(f"before-send.s3.{operation}", flip)
    with pytest.raises(MedsynthError, match="key") as caught:
        store.put("key", os.urandom(1000 if operation == "PutObject" else 6 * 2**20))
    assert isinstance(caught.value, TransientError), caught.value
    assert store.size("key") is None


def test_a_killed_upload_leaves_nothing_but_what_is_listed(
    s3_store: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, threading; from pathlib import Path\n"
        "from medsynth_core.storage.settings import StoreConfig; from medsynth_core.storage import store\n"
        "from medsynth_core.storage.stores import s3\n"
        "s3._IN_PARTS = s3.TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)\n"
        f"opened = store.open_store(StoreConfig(**{s3_store.model_dump()!r}), Path())\n"
        "opened._client.meta.events.register('after-call.s3.UploadPart', lambda **_: os._exit(9))\n"
        "opened.put('files/md5/aa/bb', bytes(12 * 2**20))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    store = open_store(s3_store, tmp_path)
    assert store.size("files/md5/aa/bb") is None, "an object is there whole or not at all"
    left = list(store.unfinished())
    assert [each.key for each in left] == ["files/md5/aa/bb"]
    store.discard(left[0])
    assert list(store.unfinished()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(StoreConfig(url="store"), tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.put("a/b", b"data")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_client_is_not_sent_to_workers_with_its_connections(s3_store: StoreConfig, tmp_path: Path) -> None:
    store = open_store(s3_store, tmp_path)
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"
