"""A release of three made-up shards, on both stores: what DVC makes of it, and what verify sees."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.made_release import leave_judged, made_images, upload_shard
from medsynth_core.errors import CorruptObjectError, IncompleteRunError, InputError, MedsynthError
from medsynth_core.manifest import table_of
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.release.verify import verify, verify_at
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import content_key, md5_of_key, put_content
from medsynth_core.storage.index import list_tags
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.reports import report_key
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.workspace.garbage import find_garbage
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.repository import dvc, git
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
N_SHARDS = 3
RUN = "a" * 32


def image_shard(store: ObjectStore, shard: int, run: str = RUN) -> CompletionRecord:
    """Uploads a shard of two accepted images and a rejected one."""
    return upload_shard(store, run, shard, N_SHARDS, list(made_images(run, shard, 3, 16)), n_rejected=1)


class Team:
    """A workspace that a first release was made in."""

    def __init__(self, root: Path, config: StoreConfig) -> None:
        self.root, self.paths = root, workspace_paths(root)
        self.config: Config = Config().model_copy(update={"store": config})
        self.store = open_store(config, root)
        self.is_local = not config.url.startswith("s3://")
        self.tag = f"{self.config.release.name}-v1"

    @cached_property
    def records(self) -> list[CompletionRecord]:
        return [image_shard(self.store, shard) for shard in range(N_SHARDS)]

    def found(self) -> Team:
        init_workspace(self.root, self.config)
        leave_judged(self.paths, RUN, self.records)
        assert self.release() == self.tag
        return self

    def publish(self) -> None:
        perform("release", self.config, self.root, silent, self.store)

    def release(self) -> str:
        self.publish()
        dvc(self.root, "commit", "--quiet", "--force", "release")
        return record_release(self.root, self.store)


@pytest.fixture(scope="module", params=["local", "s3"])
def team(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "local":
            config = StoreConfig(url=str(folder / "store"))
        else:
            config = request.getfixturevalue("new_bucket")(patch)
        yield Team(folder / "team", config).found()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Team(tmp_path_factory.mktemp("original") / "team", StoreConfig(url="store")).found().root


@pytest.fixture
def local_team(original: Path, tmp_path: Path) -> Team:
    """A copy, to be changed, of a workspace with its store inside."""
    shutil.copytree(original, tmp_path / "team")
    return Team(tmp_path / "team", StoreConfig(url="store"))


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def clone(team: Team, target: Path) -> Path:
    git(team.root, "clone", "--quiet", str(team.root), str(target))
    return target


def test_a_release_is_read_and_verified(team: Team) -> None:
    release = open_release(team.root, rev=team.tag)
    assert release.manifest(["release", "image_id"]).num_rows == 6
    assert release.rejected(["reasons"])["reasons"].to_pylist() == [["dull"]] * 3
    dataset = pickle.loads(pickle.dumps(release.dataset(transform=None)))
    assert dataset[-1]["image"].shape == (1, 16, 16)
    seen = {item["image_id"]: item["image"].numpy()[0] for item in dataset}
    for shard in range(N_SHARDS):
        for identity, png, _ in list(made_images(RUN, shard, 3, 16))[1:]:
            np.testing.assert_array_equal(seen[identity], np.array(Image.open(io.BytesIO(png))))
    found = verify(release, silent)
    assert found.problems == ()
    assert (found.n_files, found.n_images) == (13, 6)


def test_dvc_reads_it_in_a_clone(team: Team, tmp_path: Path) -> None:
    copy = clone(team, tmp_path / "clone")
    dvc(copy, "pull", "--quiet", "dataset.dvc")
    assert sorted(p.name for p in (copy / "dataset").iterdir()) == [
        "README.md", "croissant.json", "manifest", "rejected", "release.json", "schema.json", "shards"
    ]  # fmt: skip
    assert "up to date" in dvc(copy, "status", "dataset.dvc")
    assert "in sync" in dvc(copy, "status", "-c", "dataset.dvc")
    before = {stored.key for stored in team.store.list("files/")}
    assert "No" in dvc(copy, "gc", "--all-tags", "--cloud", "--dry", "--force"), "nothing of a tagged release would go"
    assert {stored.key for stored in team.store.list("files/")} == before
    assert verify(open_release(copy / "dataset"), silent).problems == ()
    assert open_release(copy, rev=team.tag).manifest().equals(open_release(team.root).manifest())


def test_dvc_gets_it_by_tag_and_streams_it(team: Team, tmp_path: Path) -> None:
    dvc(tmp_path, "get", str(team.root), "dataset", "--rev", team.tag, "-o", "got")
    assert open_release(tmp_path / "got").info["spec_hash"] == RUN
    code = f"""
from dvc.api import DVCFileSystem, get_url
fs = DVCFileSystem({str(team.root)!r}, rev={team.tag!r})
assert sorted(fs.ls("dataset/shards", detail=False))[0] == "dataset/shards/aaaaaaaa-00000.tar"
data = fs.read_bytes("dataset/shards/aaaaaaaa-00001.tar")
url = get_url("dataset/shards/aaaaaaaa-00001.tar", repo={str(team.root)!r}, rev={team.tag!r})
print(len(data), url)
"""
    size, url = python(code, tmp_path).split()
    tar = team.records[1].tar
    assert tar is not None
    assert int(size) == tar.size
    assert url.endswith(content_key(tar.md5))


def test_the_directory_object_is_the_one_dvc_writes(local_team: Team, tmp_path: Path) -> None:
    shutil.copytree(local_team.root / "dataset", tmp_path / "again" / "dataset")
    git(tmp_path / "again", "init", "--quiet")
    dvc(tmp_path / "again", "init", "--quiet")
    dvc(tmp_path / "again", "add", "--quiet", "dataset")
    assert (tmp_path / "again" / "dataset.dvc").read_bytes() == (local_team.root / "dataset.dvc").read_bytes()


def test_a_release_that_is_repeated_is_the_same_and_a_new_one_gets_a_new_tag(local_team: Team) -> None:
    team = local_team
    pointer = (team.root / "dataset.dvc").read_bytes()
    assert team.release() == team.tag
    assert (team.root / "dataset.dvc").read_bytes() == pointer
    git(team.root, "tag", f"{team.tag}-v7")  # the first tag of another dataset, called like ours and "-v1"
    other = image_shard(team.store, 2, "b" * 32).model_copy(update={"run_id": f"{RUN}-plan"})
    leave_judged(team.paths, RUN, [*team.records[:2], other])
    assert team.release() == f"{team.config.release.name}-v2"
    git(team.root, "tag", "-d", f"{team.config.release.name}-v2")  # what a kill between commit and tag leaves
    assert record_release(team.root, team.store) == f"{team.config.release.name}-v2"
    assert (team.root / "dataset.dvc").read_bytes() != pointer
    assert "up to date" in dvc(team.root, "status", "dataset.dvc")
    assert open_release(team.root, rev=team.tag).manifest().num_rows == 6, "the first stays readable"


def test_the_page_of_a_release_lies_beside_its_record(team: Team) -> None:
    folder, key = team.paths["report"], report_key(team.tag)
    assert team.store.size(key) is None, "a release without a page is recorded all the same"
    folder.mkdir(parents=True)
    for name, page in ((open_release(team.root).name, b"<p>one"), (open_release(team.root).name, b"<p>two")):
        (folder / "report.html").write_bytes(page)
        (folder / "metrics.json").write_text(json.dumps({"release": name}))
        assert record_release(team.root, team.store) == team.tag
        assert team.store.get(key) == page, "a page that was made anew takes its place"
    (folder / "report.html").write_bytes(b"<p>of another dataset")
    (folder / "metrics.json").write_text(json.dumps({"release": "synthetic-cxr@00000000"}))
    record_release(team.root, team.store)
    assert team.store.get(key) == b"<p>two"
    garbage = find_garbage(team.root, team.store, timedelta(0))
    assert not [each for each in garbage.objects if each.key.startswith("reports/")]
    assert list_tags(team.store) == [team.tag]
    assert key.replace("-v1", "-vN") in open_release(team.root).read("README.md").decode()


def test_a_clone_of_a_workspace_with_its_store_inside_reads_from_where_it_came(
    local_team: Team, tmp_path: Path
) -> None:
    copy = clone(local_team, tmp_path / "clone")
    with pytest.raises(MedsynthError, match=r"dvc remote modify --local store url"):
        open_release(copy)
    dvc(copy, "remote", "modify", "--local", "store", "url", str(local_team.root / "store"))
    dvc(copy, "pull", "--quiet", "dataset.dvc")
    assert open_release(copy).manifest().num_rows == 6


Damage = Callable[[Team, dict[str, Path]], Any]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()  # the workspace's hard link must keep its bytes
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def point(team: Team, **changes: Any) -> None:
    """Writes other numbers into the pointer."""
    path = team.root / "dataset.dvc"
    tree = yaml.safe_load(path.read_text())
    tree["outs"][0].update(changes)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda team, at: cut(at["shards/aaaaaaaa-00000.tar"]), "changed bytes: shards/aaaaaaaa-00000.tar"),
        (lambda team, at: at["release.json"].unlink(), "missing object: release.json"),
        (lambda team, at: point(team, nfiles=12), "wrong pointer: it says 12 files, the release has 13"),
        (lambda team, at: point(team, size=7), "wrong pointer: it says 7 bytes"),
        (lambda team, at: flip(at["shards/aaaaaaaa-00001.tar"], 2000), "changed bytes: shards/aaaaaaaa-00001.tar"),
        (lambda team, at: at["shards/aaaaaaaa-00002.tar"].unlink(), "missing object: shards/aaaaaaaa-00002.tar"),
        (
            lambda team, at: flip(at["manifest/aaaaaaaa-00000.parquet"], 5),
            "changed bytes: manifest/aaaaaaaa-00000.parquet",
        ),
        (lambda team, at: flip(at["release.json"], 5), "changed bytes: release.json"),
        (lambda team, at: flip(at["README.md"], 5), "changed bytes: README.md"),
    ],
)
def test_verify_names_a_damaged_object(local_team: Team, damage: Damage, problem: str) -> None:
    release = open_release(local_team.root)
    damage(local_team, {name: local_team.root / "store" / key for name, key in release.files.items()})
    problems = verify(open_release(local_team.root), silent).problems
    assert len(problems) == 1, problems
    assert problems[0].startswith(problem)


def test_a_damaged_directory_object_is_not_opened(local_team: Team) -> None:
    dir_md5 = open_release(local_team.root).dir_md5
    assert dir_md5 is not None
    flip(local_team.root / "store" / content_key(dir_md5), 12)
    with pytest.raises(CorruptObjectError, match="MD5"):
        open_release(local_team.root)
    found = verify_at(str(local_team.root), None, silent).problems
    assert [problem.split(":")[0] for problem in found] == ["damaged release"]
    (local_team.root / "store" / content_key(dir_md5)).unlink()
    assert "is not in" in verify_at(str(local_team.root), None, silent).problems[0]


def test_a_tag_that_names_another_dataset_than_the_store_is_found(local_team: Team) -> None:
    record = local_team.root / "store" / "releases" / f"{local_team.tag}.json"
    record.write_text(record.read_text().replace(str(open_release(local_team.root).dir_md5), "0" * 32 + ".dir"))
    assert verify_at(str(local_team.root), None, silent).problems == ()
    found = verify_at(str(local_team.root), local_team.tag, silent).problems
    assert [problem.split(":")[0] for problem in found] == ["wrong version"]


def test_the_command_reports_and_exits_with_4(local_team: Team, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medsynth_core.cli.main", "verify", str(local_team.root)]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout.split(", ")[-1]) == (0, "0 problems\n"), good.stderr
    flip(local_team.root / "store" / open_release(local_team.root).files["README.md"], 5)
    bad = subprocess.run([*command, "--report", str(tmp_path / "r.json")], capture_output=True, text=True, check=False)
    assert bad.returncode == 4
    assert json.loads((tmp_path / "r.json").read_text())["problems"] == bad.stdout.splitlines()[:1]


def test_a_damaged_checkout_is_reported_not_thrown(local_team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(local_team.root / "dataset", folder)
    for name in ("shards/aaaaaaaa-00000.tar", "shards/aaaaaaaa-00001.tar", "shards/aaaaaaaa-00002.tar"):
        (folder / name).chmod(0o644)
    flip(folder / "shards/aaaaaaaa-00000.tar", 3000)
    (folder / "shards/aaaaaaaa-00001.tar").write_bytes(b"no tar")
    (folder / "shards/aaaaaaaa-00002.tar").unlink()
    problems = "\n".join(verify(open_release(folder), silent).problems)
    assert "shards/aaaaaaaa-00001.tar: not a tar" in problems
    assert "no shard shards/aaaaaaaa-00002.tar" in problems
    (folder / "manifest/aaaaaaaa-00000.parquet").chmod(0o644)
    (folder / "manifest/aaaaaaaa-00000.parquet").write_bytes(b"no table")
    problems = "\n".join(verify(open_release(folder), silent).problems)
    assert "manifest/aaaaaaaa-00000.parquet" in problems


def rewritten(team: Team, rows: Callable[[list[dict[str, Any]]], None], accepted: int = 2) -> None:
    """Publishes the dataset with other rows in its first manifest part."""
    record = team.records[0]
    table = open_release(team.root).manifest().drop_columns(["release"]).to_pylist()[:2]
    rows(table)
    part = put_content(team.store, record.manifest.relpath, parquet_bytes(table_of(table)))
    counts = Counts(requested=accepted + 1, accepted=accepted, rejected={"dull": 1})
    leave_judged(team.paths, RUN, [record.model_copy(update={"manifest": part, "counts": counts}), *team.records[1:]])
    team.publish()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[1].update(image_id=rows[0]["image_id"]), "duplicate id"),
        (lambda rows: rows[0].update(sha256="0" * 64), "changed image"),
        (lambda rows: rows[0].update(offset=rows[0]["offset"] + 1), "wrong offset"),
        (lambda rows: rows[0].update(shard="shards/shard-00009.tar"), "row without image"),
        (lambda rows: rows[0].update(image_id="f" * 24), "row without image"),
    ],
)
def test_verify_names_a_row_that_is_wrong(
    local_team: Team, change: Callable[[list[dict[str, Any]]], None], problem: str
) -> None:
    rewritten(local_team, change)
    problems = verify(open_release(local_team.root), silent).problems
    assert any(each.startswith(problem) for each in problems), problems


def test_an_image_that_lost_its_row_is_named(local_team: Team) -> None:
    rewritten(local_team, lambda rows: rows.pop(), accepted=1)
    problems = verify(open_release(local_team.root), silent).problems
    assert [problem.split(":")[0] for problem in problems] == ["image without row"]


def test_accounting_that_is_off_is_named(local_team: Team) -> None:
    release = open_release(local_team.root)
    about = json.dumps({**release.info, "counts": {**release.info["counts"], "accepted": 5}}).encode()
    other = put_content(local_team.store, "release.json", about)
    keys = {**release.files, "release.json": content_key(other.md5)}
    listed = [{"md5": md5_of_key(key), "relpath": path} for path, key in sorted(keys.items())]
    text = json.dumps(listed).encode()
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    local_team.store.put(content_key(md5), text)
    point(local_team, md5=md5)
    kinds = [problem.split(":")[0] for problem in verify(open_release(local_team.root), silent).problems]
    assert set(kinds) == {"accounting"}


def test_a_path_that_leaves_the_release_is_refused(local_team: Team) -> None:
    rewritten(local_team, lambda rows: rows[0].update(shard="../../../../etc/passwd"))
    release = open_release(local_team.root)
    with pytest.raises(CorruptObjectError, match="has no file"):
        release.dataset()[0]
    entries = json.dumps([{"md5": "0" * 32, "relpath": "../up"}]).encode()
    md5 = hashlib.md5(entries, usedforsecurity=False).hexdigest() + ".dir"
    local_team.store.put(content_key(md5), entries)
    (local_team.root / "dataset.dvc").write_text(f"outs:\n- md5: {md5}\n  path: dataset\n")
    with pytest.raises(CorruptObjectError, match="leaves the release"):
        open_release(local_team.root)


def unpublishable(team: Team, records: list[CompletionRecord]) -> str:
    leave_judged(team.paths, RUN, records)
    pointer = (team.root / "dataset.dvc").read_bytes()
    with pytest.raises(IncompleteRunError) as caught:
        team.publish()
    assert (team.root / "dataset.dvc").read_bytes() == pointer, "a refused release changes nothing"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_release_is_refused_when_the_accounting_is_off(local_team: Team) -> None:
    team, first = local_team, local_team.records[0]
    assert "shards [0, 1] of 3" in unpublishable(team, team.records[:2])
    assert "shards [0, 0, 2] of 3" in unpublishable(team, [first, first, team.records[2]])
    more = first.model_copy(update={"counts": Counts(requested=4, accepted=3, rejected={"dull": 1})})
    assert "manifest/aaaaaaaa-00000.parquet holds 2 rows, its record says 3" in unpublishable(
        team, [more, *team.records[1:]]
    )
    lost = first.model_copy(update={"counts": Counts(requested=4, accepted=2, rejected={"dull": 2})})
    assert "rejected/aaaaaaaa-00000.parquet holds 1 rows, its record says 2" in unpublishable(
        team, [lost, *team.records[1:]]
    )
    assert first.tar is not None
    (team.root / "store" / content_key(first.tar.md5)).unlink()
    assert "shards/aaaaaaaa-00000.tar" in unpublishable(team, team.records)


def test_a_shard_list_whose_sum_is_off_is_refused_in_one_line(local_team: Team) -> None:
    path = local_team.paths["deduplicate"] / "shards.json"
    path.write_text(path.read_text().replace('"accepted": 6', '"accepted": 5'))
    with pytest.raises(MedsynthError, match=r"shards\.json") as caught:
        local_team.publish()
    assert "\n" not in str(caught.value)


def test_a_revision_is_no_option_for_git(local_team: Team, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at revision"):
        open_release(local_team.root, rev=f"--output={tmp_path / 'written'}")
    assert not list(tmp_path.glob("written*"))


def test_an_unfinished_init_is_finished_and_a_foreign_folder_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", str(tmp_path / "w"))
    assert init_workspace(tmp_path / "w", Config()), "what a kill in the middle of init leaves"
    assert git(tmp_path / "w", "status", "--porcelain") == ""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        init_workspace(tmp_path / "foreign", Config())
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]
