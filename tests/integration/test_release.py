"""A release of three hand-made shards, on both stores: what DVC makes of it, and what verify sees."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medsynth_core.config import Config, Paths
from medsynth_core.config.tree import StoreConfig
from medsynth_core.errors import CorruptObjectError, IncompleteRunError, InputError, MedsynthError
from medsynth_core.progress import silent
from medsynth_core.release import open_release, publish
from medsynth_core.release.verify import verify
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import content_key, put_content
from medsynth_core.storage.manifest import parquet_bytes, table_of
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.repository import dvc, git

pytestmark = pytest.mark.integration
N_SHARDS = 3


def image_id(shard: int, sample: int, mark: str = "") -> str:
    return hashlib.sha256(f"{mark}{shard}:{sample}".encode()).hexdigest()[:24]


def pixels(shard: int, sample: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng([shard, sample]).integers(0, 256, (16, 16), dtype=np.uint8)


def hand_made_shard(store: ObjectStore, shard: int, mark: str = "") -> CompletionRecord:
    """Uploads a shard of two accepted images and a rejected one."""
    writer, rows, tar_name = ShardWriter(), [], f"shards/shard-{shard:05d}.tar"
    for sample in range(3):
        identity, png = image_id(shard, sample, mark), encode_png(pixels(shard, sample))
        accepted = sample < 2
        if accepted:
            writer.add(identity, png, {"prompt": "a drawing"})
        verdict = {"verdict": "accepted", "reasons": []} if accepted else {"verdict": "rejected", "reasons": ["dull"]}
        row = {"image_id": identity, "size": len(png), "sha256": hashlib.sha256(png).hexdigest(), "synthetic": True}
        label = {"pathology": "mass", "anatomy": "lung", "side": "left", "severity": None}
        about = (
            {"prompt": "a drawing", "pathology": ["mass"], "labels": [label]}
            if sample
            else {"labels": [], "pathology": []}
        )
        rows.append({**row, **verdict, "view": "frontal", "prompt": "a drawing", **about})
    tar, places = writer.finish()
    kept = [{**row, "shard": tar_name, "offset": places[row["image_id"]][0]} for row in rows[:2]]
    return CompletionRecord(
        run_id="spec-plan",
        shard=shard,
        n_shards=N_SHARDS,
        tar=put_content(store, tar_name, tar),
        manifest=put_content(store, f"manifest/part-{shard:05d}.parquet", parquet_bytes(table_of(kept))),
        rejected=put_content(store, f"rejected/part-{shard:05d}.parquet", parquet_bytes(table_of(rows[2:]))),
        counts=Counts(requested=3, accepted=2, rejected={"dull": 1}),
    )


def judge(paths: Paths, records: list[CompletionRecord]) -> None:
    """Leaves on disk what the stages before the release do."""
    for folder in (paths.corpus, paths.prompts, paths.quality):
        folder.mkdir(parents=True, exist_ok=True)
    about = {"kind": "phantom", "licence": "none", "studies": {"train": 4}, "views": {"train": 4}}
    (paths.corpus / "corpus.json").write_text(json.dumps(about))
    account = {"provider": "template", "requested": 3, "accepted": 3, "rejected": {}}
    (paths.prompts / "account.json").write_text(json.dumps(account))
    ShardList(
        spec_hash="spec",
        run_ids=("spec-plan",),
        parent=None,
        model_digests={"vqgan": "0" * 64, "alignment": "1" * 64, "llm": "2" * 64},
        bounds={"agreement": -1.0, "copy": 0.0},
        shards=tuple(records),
        counts=reduce(add, (record.counts for record in records)),
    ).save(paths.quality)


class Team:
    """A workspace that a first release was made in."""

    def __init__(self, root: Path, config: StoreConfig) -> None:
        self.root, self.paths = root, Paths(root)
        self.config: Config = Config().model_copy(update={"store": config})
        self.store = open_store(config, root)
        self.is_local = not config.url.startswith("s3://")
        self.tag = f"{self.config.release.name}-v1"

    @cached_property
    def records(self) -> list[CompletionRecord]:
        return [hand_made_shard(self.store, shard) for shard in range(N_SHARDS)]

    def found(self) -> Team:
        init_workspace(self.root, self.config)
        judge(self.paths, self.records)
        assert self.release() == self.tag
        return self

    def publish(self) -> None:
        publish.run(self.config, self.paths, self.store, silent)

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
        for sample in range(2):
            np.testing.assert_array_equal(seen[image_id(shard, sample)], pixels(shard, sample))
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
    assert verify(open_release(copy / "dataset"), silent).problems == ()
    assert open_release(copy, rev=team.tag).manifest().equals(open_release(team.root).manifest())


def test_dvc_gets_it_by_tag_and_streams_it(team: Team, tmp_path: Path) -> None:
    dvc(tmp_path, "get", str(team.root), "dataset", "--rev", team.tag, "-o", "got")
    assert open_release(tmp_path / "got").info["spec_hash"] == "spec"
    code = f"""
from dvc.api import DVCFileSystem, get_url
fs = DVCFileSystem({str(team.root)!r}, rev={team.tag!r})
assert sorted(fs.ls("dataset/shards", detail=False))[0] == "dataset/shards/shard-00000.tar"
data = fs.read_bytes("dataset/shards/shard-00001.tar")
url = get_url("dataset/shards/shard-00001.tar", repo={str(team.root)!r}, rev={team.tag!r})
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
    judge(team.paths, [*team.records[:2], hand_made_shard(team.store, 2, mark="other")])
    assert team.release() == f"{team.config.release.name}-v2"
    git(team.root, "tag", "-d", f"{team.config.release.name}-v2")  # what a kill between commit and tag leaves
    assert record_release(team.root, team.store) == f"{team.config.release.name}-v2"
    assert (team.root / "dataset.dvc").read_bytes() != pointer
    assert "up to date" in dvc(team.root, "status", "dataset.dvc")
    assert open_release(team.root, rev=team.tag).manifest().num_rows == 6, "the first stays readable"


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


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda team, at: flip(at["shards/shard-00001.tar"], 2000), "changed bytes: shards/shard-00001.tar"),
        (lambda team, at: at["shards/shard-00002.tar"].unlink(), "missing object: shards/shard-00002.tar"),
        (lambda team, at: flip(at["manifest/part-00000.parquet"], 5), "changed bytes: manifest/part-00000.parquet"),
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


def test_a_damaged_checkout_is_reported_not_thrown(local_team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(local_team.root / "dataset", folder)
    for name in ("shards/shard-00000.tar", "shards/shard-00001.tar", "shards/shard-00002.tar"):
        (folder / name).chmod(0o644)
    flip(folder / "shards/shard-00000.tar", 3000)
    (folder / "shards/shard-00001.tar").write_bytes(b"no tar")
    (folder / "shards/shard-00002.tar").unlink()
    problems = "\n".join(verify(open_release(folder), silent).problems)
    assert "shards/shard-00001.tar: not a tar" in problems
    assert "no shard shards/shard-00002.tar" in problems
    (folder / "manifest/part-00000.parquet").chmod(0o644)
    (folder / "manifest/part-00000.parquet").write_bytes(b"no table")
    problems = "\n".join(verify(open_release(folder), silent).problems)
    assert "manifest/part-00000.parquet" in problems


def rewritten(team: Team, rows: Callable[[list[dict[str, Any]]], None], accepted: int = 2) -> None:
    """Publishes the dataset with other rows in its first manifest part."""
    record = team.records[0]
    table = open_release(team.root).manifest().drop_columns(["release"]).to_pylist()[:2]
    rows(table)
    part = put_content(team.store, record.manifest.relpath, parquet_bytes(table_of(table)))
    counts = Counts(requested=accepted + 1, accepted=accepted, rejected={"dull": 1})
    judge(team.paths, [record.model_copy(update={"manifest": part, "counts": counts}), *team.records[1:]])
    team.publish()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[1].update(image_id=rows[0]["image_id"]), "duplicate id"),
        (lambda rows: rows[0].update(sha256="0" * 64), "changed image"),
        (lambda rows: rows[0].update(offset=rows[0]["offset"] + 1), "wrong offset"),
        (lambda rows: rows[0].update(shard="shards/shard-00009.tar"), "row without image"),
    ],
)
def test_verify_names_a_row_that_is_wrong(
    local_team: Team, change: Callable[[list[dict[str, Any]]], None], problem: str
) -> None:
    rewritten(local_team, change)
    problems = verify(open_release(local_team.root), silent).problems
    assert any(each.startswith(problem) for each in problems), problems


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
    judge(team.paths, records)
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
    assert "manifest/part-00000.parquet holds 2 rows, its record says 3" in unpublishable(
        team, [more, *team.records[1:]]
    )
    lost = first.model_copy(update={"counts": Counts(requested=4, accepted=2, rejected={"dull": 2})})
    assert "rejected/part-00000.parquet holds 1 rows, its record says 2" in unpublishable(
        team, [lost, *team.records[1:]]
    )
    assert first.tar is not None
    (team.root / "store" / content_key(first.tar.md5)).unlink()
    assert "shards/shard-00000.tar" in unpublishable(team, team.records)


def test_a_shard_list_whose_sum_is_off_is_refused_in_one_line(local_team: Team) -> None:
    path = local_team.paths.quality / "shards.json"
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
