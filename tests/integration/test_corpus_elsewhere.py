"""Corpora that lie in a zip, a tar or on S3: read as the same files in a folder are."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from s3fs import S3FileSystem

from medsynth_core.corpus.normalised import Corpus, image_chunk
from medsynth_core.corpus.places import place_of
from medsynth_core.corpus.readers import open_corpus, recognised
from medsynth_core.corpus.reading import read_film
from medsynth_core.corpus.records import BadRow
from medsynth_core.errors import InputError, StoreError, TransientError
from medsynth_core.progress import silent
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform
from tests.unit.test_reader_chexpert import archive as chexpert  # noqa: F401 - fixtures
from tests.unit.test_reader_chexpert_plus import archive as chexpert_plus  # noqa: F401
from tests.unit.test_reader_dicom import tree as dicom  # noqa: F401
from tests.unit.test_reader_hf import folders, shards  # noqa: F401
from tests.unit.test_reader_mimic_cxr import archive as mimic  # noqa: F401
from tests.unit.test_reader_nih import archive as nih  # noqa: F401
from tests.unit.test_reader_nih import film as film
from tests.unit.test_reader_openi import published as openi  # noqa: F401
from tests.unit.test_reader_padchest import archive as padchest  # noqa: F401
from tests.unit.test_reader_vindr import physionet as vindr  # noqa: F401
from tests.unit.test_reader_vindr import pixels as pixels
from tests.unit.test_recognising import table as make_table

LAYOUTS = ("chexpert", "chexpert_plus", "dicom", "folders", "shards", "mimic", "nih", "openi", "padchest", "vindr",
           "table")  # fmt: skip


@pytest.fixture(autouse=True)
def another_server() -> None:
    """Lets each test have its own server and credentials; a process has one of each."""
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    make_table(tmp_path / "table")
    return tmp_path / "table"


def zipped(folder: Path, place: Path, top: str = "", compression: int = zipfile.ZIP_DEFLATED) -> str:
    """Packs a folder's files, below a folder ``top`` if there is one."""
    path = place / "corpus.zip"
    with zipfile.ZipFile(path, "w", compression) as packed:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            packed.write(file, f"{top}{file.relative_to(folder).as_posix()}")
    return str(path)


def tarred(folder: Path, place: Path) -> str:
    path = place / "corpus.tar"
    with tarfile.open(path, "w") as packed:
        packed.add(folder, folder.name)
    return str(path)


def uploaded(folder: Path, bucket: str, endpoint: str) -> str:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        client.upload_file(str(file), bucket, f"films of ours/{file.relative_to(folder).as_posix()}")
    return f"s3://{bucket}/films of ours"


def read(settings: dict[str, object], named: str, workspace: Path, **more: object) -> tuple[Corpus, dict[str, Any]]:
    """Runs the corpus stage on a place by what it was recognised as."""
    corpus: dict[str, Any] = {"image_size": 32, "views": "all", "max_bad_fraction": 0.9, **more}
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        (corpus.setdefault(section, {}) if section else corpus)[key] = value
    perform("corpus", parse_config({"corpus": corpus}, "test"), workspace, silent)
    made = workspace / "data" / "corpus"
    return Corpus.open(made), json.loads((made / "corpus.json").read_text())


def like(one: Path, other: Path) -> None:
    """Asserts that two corpora are the same but for where their films come from."""
    for name in ("studies", "views", "given", "boxes", "left_out"):
        tables = [pq.read_table(each / "data" / "corpus" / f"{name}.parquet").to_pandas() for each in (one, other)]
        assert_frame_equal(*(each.drop(columns=["source"], errors="ignore") for each in tables))
    chunks = [np.load(image_chunk(each / "data" / "corpus", 0)) for each in (one, other)]
    np.testing.assert_array_equal(*chunks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_from_anywhere(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path, s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(layout)
    if layout == "mimic":
        shutil.move(folder.parent.parent / "mimiciv" / "2.2" / "hosp", folder / "hosp")
    endpoint = str(s3_store.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    at_home = recognised(str(folder))
    _, said = read(dict(at_home.settings), str(folder), tmp_path / "home")
    (tmp_path / "packed").mkdir()
    places = {
        "zip": zipped(folder, tmp_path / "packed", "NIH data/"),
        "tar": tarred(folder, tmp_path / "packed"),
        "s3": uploaded(folder, str(s3_store.url).removeprefix("s3://").split("/")[0], endpoint),
    }
    for what, named in places.items():
        seen = recognised(named)
        assert seen.settings["kind"] == at_home.settings["kind"], what
        assert [Path(line).name for line in seen.found] == [Path(line).name for line in at_home.found], what
        _, elsewhere = read(dict(seen.settings), named, tmp_path / what)
        like(tmp_path / "home", tmp_path / what)
        assert elsewhere == said


def test_a_table_that_is_packed_is_a_table(table: Path, tmp_path: Path) -> None:
    for name in ("films.csv.zip", "films.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.write(table / "films.csv", "films.csv")
        assert place_of(str(tmp_path / name)) == tmp_path / name


def test_a_path_may_lead_into_an_archive(table: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    for named in (zipped(table, tmp_path / "packed", "a b/"), tarred(table, tmp_path / "packed")):
        whole = recognised(named)
        assert str(whole.settings["path"]).startswith(f"{named}/")
        _, said = read(dict(whole.settings), named, tmp_path / Path(named).suffix)
        assert sum(said["views"].values()) == 6
        again = place_of(str(whole.settings["path"]))
        assert again.is_file()
        assert str(again) == whole.settings["path"]


def test_all_processes_read_an_archive_and_only_what_changed_is_read_again(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsynth_core.corpus.stage._ROWS_A_PROCESS", 1)
    (tmp_path / "packed").mkdir()
    named = zipped(table, tmp_path / "packed")
    settings = dict(recognised(named).settings)
    _, before = read(settings, named, tmp_path / "w")
    (table / "films" / "3.png").write_bytes((table / "films" / "3.png").read_bytes()[:200])
    zipped(table, tmp_path / "packed")
    overrides = {"corpus": {"image_size": 32, "views": "all", "max_bad_fraction": 0.9, "columns": {}}}
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        (overrides["corpus"]["columns"] if section else overrides["corpus"])[key] = value  # type: ignore[index]
    config = parse_config(overrides, "test")
    report = perform("corpus", config, tmp_path / "w", silent, resume=True)
    assert report.taken_over == 5
    assert report.skipped == before["skipped"] + 1
    assert "films/3.png,,not a readable image" in (tmp_path / "w/data/corpus/skipped.csv").read_text()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scratch(path: Path) -> None:
    """Changes bytes in the middle of the first film, whose checksum then is another."""
    data = bytearray(path.read_bytes())
    place = data.index(b"films/0.png") + 200
    data[place : place + 8] = b"\0\1\2\3\4\5\6\7"
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_an_archive_that_is_cut_off(make: Callable[[Path, Path], str], table: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    named = make(table, tmp_path / "packed")
    cut(Path(named))
    with pytest.raises(InputError, match=rf"{Path(named).name}: cut off or damaged \(.*make or download it again"):
        recognised(named)


def test_a_damaged_member_is_a_bad_row(table: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    named = zipped(table, tmp_path / "packed", compression=zipfile.ZIP_STORED)
    scratch(Path(named))
    read(dict(recognised(named).settings), named, tmp_path / "w")
    skipped = pd.read_csv(tmp_path / "w" / "data" / "corpus" / "skipped.csv")
    assert len(skipped) == 1
    assert "damaged in its archive (Bad CRC-32" in skipped["reason"][0]
    assert skipped["source"][0] == f"{named}/films/0.png"


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar.xz"])
def test_a_compressed_tar_says_what_to_do(ending: str, table: Path, tmp_path: Path) -> None:
    path = tmp_path / f"corpus{ending}"
    with tarfile.open(path, "w:xz" if ending.endswith("xz") else "w:gz") as packed:
        packed.add(table, "films")
    for ask in (recognised, lambda named: read({"kind": "chexpert", "path": named}, named, tmp_path / "w")):
        with pytest.raises(InputError, match="a compressed tar can't be read by places: uncompress it"):
            ask(str(path))


@pytest.fixture
def away(table: Path, s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """The table's corpus on S3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_store.endpoint_url))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return uploaded(table, str(s3_store.url).removeprefix("s3://").split("/")[0], str(s3_store.endpoint_url))


def test_a_zip_on_s3(away: str, table: Path, s3_store: StoreConfig, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    bucket = away.removeprefix("s3://").split("/")[0]
    client = boto3.client("s3", endpoint_url=str(s3_store.endpoint_url), region_name="us-east-1")
    client.upload_file(zipped(table, tmp_path / "packed"), bucket, "corpus.zip")
    named = f"s3://{bucket}/corpus.zip"
    _, said = read(dict(recognised(named).settings), named, tmp_path / "w")
    assert sum(said["views"].values()) == 6
    with pytest.raises(InputError, match="a tar on S3 can't be read by places; download it"):
        recognised(f"s3://{bucket}/corpus.tar")


def test_what_s3_refuses_is_one_line(away: str, s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://.*/nothing: not found"):
        recognised(away.replace("films of ours", "nothing"))
    with pytest.raises(StoreError, match="no bucket 'no-such-bucket-at-all'"):
        recognised("s3://no-such-bucket-at-all/films")


def test_wrong_and_missing_credentials(
    guarded: tuple[StoreConfig, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, _, _ = guarded
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(store.endpoint_url))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"credentials refused \(InvalidAccessKeyId\)"):
        recognised(f"{store.url}/films")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials; export AWS_ACCESS_KEY_ID"):
        recognised(f"{store.url}/films")


def test_a_server_that_goes_away_is_no_bad_film(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config({"corpus": {"image_size": 32, **{
        name: value for name, value in recognised(away).settings.items() if "." not in name
    }, "columns": {"text": "Report", "image": "Film", "patient": "Patient ID"}}}, "test").corpus  # fmt: skip
    study = next(each for each in open_corpus(config, 0).studies if not isinstance(each, BadRow))
    assert read_film(study.views[0], 32, False).image is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    in_a_worker = pickle.loads(pickle.dumps(study.views[0]))
    with pytest.raises(TransientError, match="can't be reached"):
        read_film(in_a_worker, 32, False)
