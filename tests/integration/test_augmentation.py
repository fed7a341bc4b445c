"""Releases that add to earlier ones, quotas, writers that race, what is of no use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.made_release import publish_made
from flows.prepare import prepare
from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, IncompleteRunError, InputError
from medsynth_core.filters.agreement import FILTER as AGREEMENT
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.release.diff import diff
from medsynth_core.release.verify import verify, verify_at
from medsynth_core.storage.completion import Counts, record_key
from medsynth_core.storage.index import ReleaseEntry, claim, list_tags, read_entry
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, StoredObject, open_store
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.workspace.garbage import collect_garbage, find_garbage
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import dump_config
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.repository import dvc, git
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
NOW = timedelta(seconds=-60)
"""Of an age: everything is older."""


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=fields) for name, fields in sections.items()}
    )


def workspace(trained: tuple[Config, Paths], root: Path, store: StoreConfig, **sections: dict[str, Any]) -> Config:
    """Makes a workspace with everything that synthesis needs."""
    config = changed(trained[0], models={"path": "trained"}, **sections).model_copy(update={"store": store})
    init_workspace(root, config)
    shutil.copytree(trained[1].root / "models", root / "trained")
    shutil.copytree(trained[1].root / "data", root / "data")
    return config


def released(config: Config, root: Path, store: ObjectStore) -> str:
    """Runs the stages from synthesis on and records the release."""
    paths = workspace_paths(root)
    perform("synthesis", config, paths.root, silent, store)
    perform("deduplicate", config, paths.root, silent, store)
    perform("privacy", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    perform("release", config, paths.root, silent, store)
    return record_release(root, store)


@pytest.fixture
def team(trained: tuple[Config, Paths], tmp_path: Path) -> tuple[Config, Path, ObjectStore]:
    config = workspace(trained, tmp_path / "team", StoreConfig(url="store"))
    return config, tmp_path / "team", open_store(config.store, tmp_path / "team")


def test_an_extension_keeps_the_old_objects_and_adds_other_images(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    first = released(config, root, store)
    before = {found.key: found.modified for found in store.list("files/")}
    extended = changed(config, release={"parent": first})
    second = released(extended, root, store)
    assert (first, second) == ("synthetic-cxr-v1", "synthetic-cxr-v2")
    old, new = open_release(root, first), open_release(root, second)
    assert {found.key: found.modified for found in store.list("files/") if found.key in before} == before
    kept = {path: key for path, key in old.files.items() if "/" in path}
    assert kept.items() <= new.files.items()
    assert verify(new, silent).problems == ()
    found = diff(old, new)
    n = len(old.manifest())
    assert (found.came, found.went, found.kept, found.changed) == (len(new.manifest()) - n, 0, n, 0)
    assert found.shared_files >= len(kept), "and what happens to be equal"
    assert new.info["parent"] == {"tag": first, "dir_md5": old.dir_md5, "images": n, "added": found.came}
    assert new.info["counts"]["requested"] == 2 * old.info["counts"]["requested"]
    assert len(new.info["runs"]) == 2
    assert read_entry(store, second).parent == first
    assert f"to {first}" in git(root, "tag", "-n9", "--list", second)
    assert released(extended, root, store) == second, "the same run again is the same release"


def test_extend_pins_the_newest_release(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    assert prepare(root, extend=True).config.release.parent is None, "the first night has no parent"
    first = released(config, root, store)
    assert prepare(root, extend=True).config.release.parent == first
    assert prepare(root, extend=True).changes == {"release.parent": first}
    assert prepare(root).config.release.parent is None, "a plain run's version stands by itself"
    store.delete(f"releases/{first}.json")
    with pytest.raises(InputError, match=f"no release '{first}'"):
        prepare(root, extend=True)


def test_what_copies_the_parent_is_rejected(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    first = released(config, root, store)
    seen = open_release(root, first).manifest(["signature"])["signature"].to_pylist()
    extended = changed(config, release={"parent": first})
    paths = workspace_paths(root)
    perform("synthesis", extended, paths.root, silent, store)
    shards = json.loads((paths["synthesis"] / "shards.json").read_text())
    shards["bounds"]["copy"] = 1.0  # every image is a copy of every other
    (paths["synthesis"] / "shards.json").write_text(json.dumps(shards))
    report = perform("deduplicate", extended, paths.root, silent, store)
    assert report.counts.accepted == 0
    assert report.across_shards == sum(r["counts"]["accepted"] for r in shards["shards"])
    assert len(seen) == len(open_release(root, first).manifest()), "the parent loses nothing"


def test_an_unknown_parent_is_named_before_any_work(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    with pytest.raises(InputError, match="no release 'synthetic-cxr-v9'; it has none"):
        perform("synthesis", changed(config, release={"parent": "synthetic-cxr-v9"}), root, silent, store)


def commonest(paths: Paths) -> dict[str, Any]:
    """Returns a finding that some prompt asks for."""
    import pyarrow.parquet as pq

    rows = pq.read_table(paths["prompts"] / "prompts.parquet").to_pylist()
    found: dict[str, Any] = next(finding for row in rows for finding in row["findings"])
    return found


def images_of(root: Path, tag: str, pathology: str) -> int:
    return len(open_release(root, tag).manifest(["image_id"], [("labels", "contains", {"pathology": pathology})]))


def test_quotas_are_met_in_rounds_and_again_over_the_parent(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    name = commonest(workspace_paths(root))["pathology"]
    wanting = changed(config, release={"quotas": {name: 21}, "max_attempts": 5})
    first = released(wanting, root, store)
    n = images_of(root, first, name)
    assert n >= 21
    rounds = len(json.loads((root / "data" / "synthesis" / "shards.json").read_text())["run_ids"])
    assert rounds > 1
    release = open_release(root, first)
    assert verify(release, silent).problems == ()
    assert len(set(release.manifest(["image_id"])["image_id"].to_pylist())) == len(release.manifest())
    more = changed(wanting, release={"parent": first, "quotas": {name: n + 6}})
    second = released(more, root, store)
    assert n + 6 <= images_of(root, second, name), "the parent's images count"
    by_run = Counter(open_release(root, second).manifest(["spec_hash"])["spec_hash"].to_pylist())
    assert len(by_run) == 2


def test_an_interrupted_round_goes_on(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    wanting = changed(
        config, release={"quotas": {commonest(workspace_paths(root))["pathology"]: 21}, "max_attempts": 5}
    )
    first = released(wanting, root, store)
    whole = open_release(root, first).dir_md5
    last = json.loads((root / "data" / "synthesis" / "shards.json").read_text())["run_ids"][-1]
    store.delete(record_key(last, 0))
    assert released(wanting, root, store) == first
    assert open_release(root).dir_md5 == whole


def test_a_quota_that_cannot_be_met_says_why(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, store = team
    name, paths = commonest(workspace_paths(root))["pathology"], workspace_paths(root)
    scarce = changed(
        config,
        release={"quotas": {name: 400}, "max_attempts": 1},
        quality={"agreement": AGREEMENT.settings(quantile=0.999)},
    )
    with pytest.raises(
        IncompleteRunError, match=rf"can't be met: {name} \d+ of 400 after \d+ made \(agreement"
    ) as caught:
        perform("synthesis", scarce, paths.root, silent, store)
    assert "\n" not in str(caught.value)
    lateral = changed(config, release={"quotas": {f"lateral {name}": 5}})
    with pytest.raises(ConfigError, match=r"no prompt asks for 'lateral .*' \(synthesis.view is frontal\)"):
        perform("synthesis", lateral, paths.root, silent, store)
    unknown = changed(config, release={"quotas": {"hangnail": 5}})
    with pytest.raises(ConfigError, match=r"release\.quotas: pathology 'hangnail' is not in the vocabulary"):
        perform("prompts", unknown, paths.root, silent)


def test_quotas_lead_prompts(team: tuple[Config, Path, ObjectStore]) -> None:
    config, root, _ = team
    paths = workspace_paths(root)
    wanting = changed(config, release={"quotas": {"cardiomegaly": 10, "normal": 3, "frontal": 5}}, prompts={"n": 8})
    report = perform("prompts", wanting, paths.root, silent)
    assert report.pathologies["cardiomegaly"] >= 3, "ten images at four a prompt"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_two_writers_on_the_same_shards_leave_one_release(
    kind: str, trained: tuple[Config, Paths], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two processes in two clones of one team, at once, over one store, in which a stale record lies."""
    place = StoreConfig(url=str(tmp_path / "store")) if kind == "local" else request.getfixturevalue("s3_store")
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        config = workspace(trained, root, place, synthesis={"shard_images": 6})
        (root / "params.yaml").write_text(dump_config(config))
    store = open_store(place, tmp_path)
    stale = "0" * 32 + "-" + "1" * 12
    store.put(record_key(stale, 0), b'{"of": "another spec"}')
    script = (
        "import sys; from pathlib import Path\n"
        "from medsynth_core.workspace.stages import perform\n"
        "from medsynth_core.workspace.params import load_config\n"
        "from medsynth_core.progress import silent\n"
        "from medsynth_core.storage.store import open_store\n"
        "from medsynth_core.workspace.record import record_release\n"
        "root = Path(sys.argv[1]); config = load_config(root / 'params.yaml')\n"
        "for name in ('synthesis', 'deduplicate', 'privacy', 'fidelity', 'release'):\n"
        "    perform(name, config, root, silent)\n"
        "print(record_release(root, open_store(config.store, root)))\n"
    )
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True, env=one_core)
        for root in roots
    ]
    tags = [writer.communicate()[0].split()[-1:] for writer in writers]
    assert tags == [["synthetic-cxr-v1"]] * 2
    assert list_tags(store) == ["synthetic-cxr-v1"]
    for root in roots:
        report = verify_at(str(root), "synthetic-cxr-v1", silent)
        assert report.problems == ()
        assert report.n_images > 0
    assert len({open_release(root).dir_md5 for root in roots}) == 1
    listed = find_garbage(roots[0], store, NOW)
    needed = {*open_release(roots[0]).files.values()}
    extra = {found.key for found in store.list("files/")} - needed - {found.key for found in listed.objects}
    records = "".join(store.get(f.key).decode() for f in store.list("runs/") if "/shards/" in f.key)
    assert all(key.removeprefix("files/md5/").replace("/", "") in records or key.endswith(".dir") for key in extra)


class BlindStore(LocalStore):
    """Lists nothing, as a store does a moment before another writer's record stands there."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return iter(())


@pytest.mark.parametrize(("dir_md5", "tag"), [("a.dir", "cxr-v1"), ("b.dir", "cxr-v2")])
def test_a_version_claimed_since_the_listing_is_the_same_release_or_another(
    dir_md5: str, tag: str, tmp_path: Path
) -> None:
    def entry_of(md5: str) -> Callable[[str], ReleaseEntry]:
        about = {"n_files": 1, "n_bytes": 1, "counts": Counts(requested=1, accepted=1), "spec_hash": "s"}
        return lambda tag: ReleaseEntry(
            tag=tag, dir_md5=md5, **about, parent=None, commit="0" * 40, generator_version="0"
        )

    store = BlindStore(tmp_path)
    assert claim(store, "cxr", 0, entry_of("a.dir")).tag == "cxr-v1"
    assert claim(store, "cxr", 0, entry_of(dir_md5)).tag == tag


def test_different_releases_that_race_get_different_versions(tmp_path: Path) -> None:
    """Two clones claim a version of the same name at once: both get one, and no number twice."""
    script = (
        "import sys; from pathlib import Path\n"
        "from medsynth_core.storage.index import ReleaseEntry, claim\n"
        "from medsynth_core.storage.stores.local import LocalStore\n"
        "def entry(tag):\n"
        "    return ReleaseEntry(tag=tag, dir_md5=sys.argv[2] * 32 + '.dir', n_files=1, n_bytes=1, parent=None,"
        " spec_hash='', counts={'requested': 0, 'accepted': 0}, commit='', generator_version='')\n"
        "print(claim(LocalStore(Path(sys.argv[1])), 'cxr', 0, entry).tag)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), mark], stdout=subprocess.PIPE, text=True)
        for mark in "abcdef"
    ]
    tags = sorted(writer.communicate()[0].strip() for writer in writers)
    assert tags == [f"cxr-v{n}" for n in range(1, 7)]
    assert list_tags(LocalStore(tmp_path)) == tags


def test_a_cut_off_record_is_finished(team: tuple[Config, Path, ObjectStore], monkeypatch: pytest.MonkeyPatch) -> None:
    config, root, store = team

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medsynth_core.workspace.record.annotate", killed)
        with pytest.raises(KeyboardInterrupt):
            released(config, root, store)
    assert list_tags(store) == ["synthetic-cxr-v1"]
    assert git(root, "tag") == ""
    assert record_release(root, store) == "synthetic-cxr-v1"
    assert list_tags(store) == ["synthetic-cxr-v1"]
    store.delete("releases/synthetic-cxr-v1.json")  # as in a store that `dvc push` filled
    assert record_release(root, store) == "synthetic-cxr-v1"
    assert list_tags(store) == ["synthetic-cxr-v1"]


def make(root: Path, store: ObjectStore, run: str) -> Callable[[], str]:
    publish_made(Config(), workspace_paths(root), store, run * 32, (5, 4))
    return lambda: record_release(root, store)


def test_garbage_is_what_nothing_names(tmp_path: Path) -> None:
    root = tmp_path / "team"
    init_workspace(root, Config())
    store = open_store(Config().store, root)
    make(root, store, "a")()
    released_objects = {found.key for found in store.list("files/")}
    make(root, store, "b")  # published and never recorded
    (root / "mine.bin").write_bytes(b"added by hand")
    dvc(root, "add", "--quiet", "mine.bin")
    store.put("files/md5/aa/" + "b" * 30, b"an upload whose record was lost to another writer")
    (root / "store" / "files" / ".new.killed").write_bytes(b"half")
    found = find_garbage(root, store, NOW)
    assert [each.key for each in found.objects] == ["files/md5/aa/" + "b" * 30]
    assert [each.key for each in found.uploads] == ["files/.new.killed"]
    assert find_garbage(root, store, timedelta(hours=1)).young == 2
    make(root, store, "a")  # the workspace's pointer is the released one again
    everything = find_garbage(root, store, NOW, runs=True)
    assert {each.key.split("/")[1][:1] for each in everything.runs} == {"b"}
    collect_garbage(store, everything)
    left = {found.key for found in store.list("files/")}
    assert released_objects <= left
    assert verify_at(str(root), "synthetic-cxr-v1", silent).problems == ()
    assert "mine.bin" not in dvc(root, "status", "mine.bin.dvc")
    assert find_garbage(root, store, NOW, runs=True).n_bytes == 0
