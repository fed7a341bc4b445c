"""Reading a release: by place, by filter, at random and in sequence, over workers, ranks and interruptions."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.made_release import publish_made
from medsynth_core.errors import CorruptObjectError, IncompleteRunError, InputError
from medsynth_core.manifest import read_rows, table_of
from medsynth_core.progress import silent
from medsynth_core.release import Release, collate, open_release
from medsynth_core.release.stream import buffered_order
from medsynth_core.release.verify import verify
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.repository import git
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
SHARDS = (40, 7, 31, 22)
TAG = "synthetic-cxr-v1"


def found(root: Path, store: StoreConfig) -> Path:
    """Makes a workspace with one release."""
    config = Config().model_copy(update={"store": store})
    init_workspace(root, config)
    opened = open_store(store, root)
    publish_made(config, workspace_paths(root), opened, "a" * 32, SHARDS)
    assert record_release(root, opened) == TAG
    return root


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found(tmp_path_factory.mktemp("reader") / "team", StoreConfig(url="store"))


@pytest.fixture(scope="module", params=["local", "s3"])
def release(
    request: pytest.FixtureRequest, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "local":
            yield open_release(workspace)
        else:
            store = request.getfixturevalue("new_bucket")(patch)
            yield open_release(found(tmp_path_factory.mktemp("reader-s3") / "team", store))


def ids(items: Any) -> list[str]:
    return [item["image_id"] for item in items]


def test_it_is_opened_from_everywhere(workspace: Path, tmp_path: Path) -> None:
    table = open_release(workspace).manifest(["image_id", "sha256"])
    shutil.copytree(workspace / "dataset", tmp_path / "dataset")
    places = [
        (str(workspace), TAG),
        (f"file://{workspace}", TAG),
        (f"file://{workspace}", None),
        (f"file://{workspace}", git(workspace, "rev-parse", "HEAD").strip()),
        (str(workspace / "store"), TAG),
        (str(workspace / "store"), None),
        (str(tmp_path / "dataset"), None),
        (f"file://{workspace}/store", TAG),
        (f"file://{workspace}/store", None),
        (f"file://{tmp_path}/dataset", None),
    ]
    for place, rev in places:
        assert open_release(place, rev).manifest(["image_id", "sha256"]).equals(table), (place, rev)


def test_a_store_url_opens_it_without_git(
    s3_store: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "team", s3_store)
    assert len(open_release(s3_store.url, TAG, endpoint_url=s3_store.endpoint_url).manifest()) == sum(SHARDS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_store.endpoint_url))
    assert len(open_release(s3_store.url).manifest()) == sum(SHARDS)
    with pytest.raises(InputError, match=r"no release 'other-v1'; it has synthetic-cxr-v1"):
        open_release(s3_store.url, "other-v1")


@pytest.mark.parametrize(
    ("place", "rev", "message"),
    [
        ("nowhere", None, "not found"),
        ("file:///nowhere/at/all", None, "check the URL"),
        ("file://{workspace}", "v9", "check the URL"),
        ("{workspace}", "v9", "at revision 'v9'"),
        ("{workspace}/store", "none-v1", "no release 'none-v1'"),
        ("{workspace}/dataset", "v1", "a dataset folder is one version and has no revision 'v1'"),
        ("{workspace}/dataset/release.json", None, "a file; expected a workspace"),
        ("http://127.0.0.1:9/team/data", None, "it was read as a git repository: a store is named by s3://"),
        ("gs://bucket/data", None, "gs:// can't be opened; name a folder, a store .s3://. or a git URL"),
        ("s3:/bucket/data", None, "s3:// can't be opened|not found"),
    ],
)
def test_where_there_is_none_it_says_so_in_one_line(workspace: Path, place: str, rev: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_release(place.format(workspace=workspace), rev)
    assert "\n" not in str(caught.value)


def test_foreign_files_in_a_folder_are_not_read(workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(workspace / "dataset", folder)
    part = next((folder / "manifest").glob("*.parquet"))
    shutil.copy(part, part.with_name(f"{part.stem} (1).parquet"))
    for name in (
        f"manifest/._{part.name}",
        "manifest/.DS_Store",
        "shards/Thumbs.db",
        f"manifest/{part.name}.crdownload",
    ):
        (folder / name).write_bytes(b"\x00\x05\x16\x07 not of the release")
    release = open_release(folder)
    assert len(release.manifest()) == sum(SHARDS)
    assert verify(release, silent).problems == ()


@pytest.mark.parametrize("damage", ["missing", "copied", "cut"])
def test_a_release_that_is_not_whole_is_refused(workspace: Path, tmp_path: Path, damage: str) -> None:
    """A part too few, or one too many that looks like the release's own, is no smaller or larger release."""
    folder = tmp_path / "dataset"
    shutil.copytree(workspace / "dataset", folder)
    part = sorted((folder / "manifest").glob("*.parquet"))[1]
    if damage == "missing":
        part.unlink()
    elif damage == "copied":
        shutil.copy(part, part.with_name("0123abcd-00000.parquet"))
    else:
        part.write_bytes(part.read_bytes()[:-100])
    error = CorruptObjectError if damage == "cut" else IncompleteRunError
    for ask in (lambda: open_release(folder).dataset(), lambda: open_release(folder).stream()):
        with pytest.raises(error, match="fetch the release again") as caught:
            ask()
        assert str(folder) in str(caught.value)


def test_classes_are_those_of_the_release(release: Release, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"no image has a finding 'Pleural Effusion'; did you mean 'pleural effusion'"):
        release.dataset(classes=["Pleural Effusion"])
    with pytest.raises(InputError, match=r"no image has a finding 'cancer'"):
        release.stream(classes=["cancer"])
    with pytest.raises(InputError, match=r"expected a list of names, as classes=\['lung nodule'\]"):
        release.dataset(classes="lung nodule")
    with pytest.raises(InputError, match="a name stands there twice"):
        release.dataset(classes=["lung nodule", "lung nodule"])
    known = release.dataset(classes=["lung nodule", "aneurysm"])
    assert known.classes == ("lung nodule", "aneurysm")
    assert "no image has aneurysm: their targets are 0 throughout" in caplog.text


def test_a_data_loader_needs_no_collate_fn(release: Release) -> None:
    batch = next(iter(DataLoader(release.dataset(), batch_size=5)))
    assert (batch["image"].shape[0], batch["target"].shape[0], len(batch["labels"])) == (5, 5, 5)
    batch = next(iter(DataLoader(release.stream(), batch_size=5, num_workers=2)))
    assert (batch["image"].dtype, len(batch["image_id"])) == (torch.uint8, 5)
    sizes = iter(range(1, 99))
    ragged = release.dataset(transform=lambda image: image[:, : next(sizes)])
    with pytest.raises(InputError, match=r"transform gave \(1, 1, .* in one batch; expected tensors of one shape"):
        next(iter(DataLoader(ragged, batch_size=3)))


def test_filters_select_rows(release: Release) -> None:
    table = release.manifest()
    effusions = release.manifest(filters=[("pathology", "contains", "effusion"), ("score_agreement", ">", 0.5)])
    expected = [
        row["image_id"]
        for row in table.to_pylist()
        if "pleural effusion" in row["pathology"] and row["score_agreement"] > 0.5
    ]
    assert 0 < len(expected) < len(table)
    assert effusions["image_id"].to_pylist() == expected
    left = release.manifest(["labels"], [("labels", "contains", {"pathology": "lung nodule", "side": "left"})])
    assert {(each["pathology"], each["side"]) for row in left["labels"].to_pylist() for each in row} == {
        ("lung nodule", "left")
    }
    normal = release.manifest(["pathology"], [("pathology", "not contains", "")])
    assert set(map(tuple, normal["pathology"].to_pylist())) == {()}
    some = table["image_id"].to_pylist()[3:5]
    assert release.manifest(["image_id"], [("image_id", "in", some)])["image_id"].to_pylist() == some
    assert len(release.manifest(filters=[("score_training_distance", "<", 1.0)])) == 0, "a null meets no condition"


@pytest.mark.parametrize(
    "condition",
    [("pathologies", "contains", "x"), ("pathology", "~", "x"), ("view", "contains", "x"), ("width", "<", "x"), ("a",)],
)
def test_a_filter_that_cannot_be_is_named(release: Release, condition: Any) -> None:
    with pytest.raises(InputError, match="filter") as caught:
        release.manifest(filters=[condition])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no manifest column 'labelz'"):
        release.manifest(["labelz"])


def test_unwanted_shards_are_not_read(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "copy", symlinks=True)
    release = open_release(tmp_path / "copy")
    wanted = release.manifest(["shard"])["shard"].to_pylist()[0]
    for name in {*release.manifest(["shard"])["shard"].to_pylist()} - {wanted}:
        (tmp_path / "copy" / "store" / release.files[name]).unlink()
    filters = [("shard", "==", wanted)]
    assert len(list(release.stream(filters=filters, shuffle=8))) == len(release.manifest(filters=filters))
    with pytest.raises(Exception, match="no such object"):
        list(release.stream())


def test_random_access_over_workers(release: Release) -> None:
    dataset = release.dataset()
    loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=2, collate_fn=collate)
    batches = list(loader)
    assert sorted(i for batch in batches for i in batch["image_id"]) == sorted(ids(dataset))
    assert batches[0]["image"].shape == (16, 1, 16, 16)
    target, names = batches[0]["target"][0], batches[0]["pathology"][0]
    assert [dataset.classes[i] for i in torch.nonzero(target)[:, 0]] == names
    assert dataset[-1]["image_id"] == dataset[len(dataset) - 1]["image_id"]
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    two = release.dataset(classes=["pneumothorax", "mass"])
    assert two[0]["target"].shape == (2,)


def test_a_stream_gives_what_random_access_gives(release: Release) -> None:
    dataset, stream = release.dataset(), release.stream()
    assert len(stream) == len(dataset)
    for item, other in zip(stream, dataset, strict=True):
        assert item["image_id"] == other["image_id"]
        assert torch.equal(item["image"], other["image"])
        assert item["labels"] == other["labels"]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 3), (3, 0), (2, 2)])
@pytest.mark.parametrize("shuffle", [0, 16])
def test_each_image_comes_once_an_epoch(workspace: Path, ranks: int, workers: int, shuffle: int) -> None:
    release = open_release(workspace)
    streams = [release.stream(shuffle=shuffle, seed=3, rank=rank, world_size=ranks) for rank in range(ranks)]
    loaders = [DataLoader(s, batch_size=None, num_workers=workers) for s in streams]
    seen = [ids(loader) for loader in loaders]
    assert sorted(i for part in seen for i in part) == sorted(ids(release.dataset()))
    assert [len(part) for part in seen] == [len(stream) for stream in streams]
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_epochs_differ_and_repeat(workspace: Path) -> None:
    stream = open_release(workspace).stream(shuffle=30, seed=1)
    first = ids(stream)
    stream.set_epoch(1)
    second = ids(stream)
    stream.set_epoch(0)
    assert ids(stream) == first != second
    assert sorted(first) == sorted(second)
    assert ids(open_release(workspace).stream(shuffle=30, seed=2)) != first


def test_persistent_workers_see_the_epoch(workspace: Path) -> None:
    stream = open_release(workspace).stream(shuffle=30)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = ids(loader)
    stream.set_epoch(1)
    second = ids(loader)
    assert first != second


@pytest.mark.parametrize("stop", [0, 1, 17, 99])
def test_a_stream_goes_on_where_it_stopped(workspace: Path, stop: int) -> None:
    release = open_release(workspace)
    whole = ids(release.stream(shuffle=12, seed=5))
    stream = release.stream(shuffle=12, seed=5)
    items = iter(stream)
    before = ids(next(items) for _ in range(stop))
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    again = release.stream(shuffle=12, seed=5)
    again.load_state_dict(state)
    assert before + ids(again) == whole
    assert ids(again) == whole, "the next epoch is whole again"
    other = release.stream(shuffle=12, seed=6)
    other.load_state_dict(state)
    with pytest.raises(InputError, match="saved position has seed 5, this stream 6"):
        next(iter(other))


def test_a_stateful_loader_goes_on_with_its_workers(workspace: Path) -> None:
    def loader() -> StatefulDataLoader:
        stream = open_release(workspace).stream(shuffle=12, seed=5)
        return StatefulDataLoader(stream, batch_size=8, num_workers=2, collate_fn=collate)

    whole = [batch["image_id"] for batch in loader()]
    first = loader()
    batches = iter(first)
    before = [next(batches)["image_id"] for _ in range(5)]
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert before + [batch["image_id"] for batch in again] == whole


def test_the_shuffle_buffer_holds_no_more_than_it_says() -> None:
    order = buffered_order(1000, 50, np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    assert (order <= np.arange(1000) + 49).all()
    assert np.corrcoef(order, np.arange(1000))[0, 1] < 0.999
    assert buffered_order(5, 0, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]


def test_a_truncated_shard_is_named(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "dataset", tmp_path / "dataset")
    release = open_release(tmp_path / "dataset")
    last = release.manifest(["shard"])["shard"].to_pylist()[-1]
    path = tmp_path / "dataset" / last
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:5000])
    for read in (lambda: list(release.stream()), lambda: release.dataset()[len(release.dataset()) - 1]):
        with pytest.raises(CorruptObjectError, match=last):
            read()


def test_columns_that_a_part_lacks_are_null() -> None:
    """Parts of an earlier schema stay readable: changes only add columns."""
    old = parquet_bytes(table_of([{"image_id": "a"}]).select(["image_id"]))
    assert read_rows(old, ["view", "image_id"]).to_pylist() == [{"view": None, "image_id": "a"}]
