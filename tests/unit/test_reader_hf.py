"""Data sets are read as Hugging Face's ``datasets`` writes them and as its image folders are laid out."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsynth_core.corpus import stage
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers import hf, open_corpus
from medsynth_core.corpus.readers.hf import recognise
from medsynth_core.corpus.records import NO_FINDING, Study
from medsynth_core.corpus.settings import CorpusParams
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths
from tests.dicoms import film, saved


def picture(index: int) -> np.ndarray:
    return phantom_study(0, index, 64).views[0].load().astype(np.uint8)


def encoded(index: int, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(index)).save(stream, form)
    return stream.getvalue()


def write_image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index)).save(path)


NAMES = ["Effusion", "Mass", "No Finding"]
FEATURES = {
    "image": {"_type": "Image"},
    "labels": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
    "label": {"names": ["Normal", "Effusion"], "_type": "ClassLabel"},
    "Mass": {"names": ["unlabeled", "uncertain", "absent", "present"], "_type": "ClassLabel"},
    "view": {"names": ["PA", "LATERAL"], "_type": "ClassLabel"},
    "report": {"dtype": "string", "_type": "Value"},
}


def write_shard(path: Path, indexes: list[int], group: int = 2, **changed: Any) -> None:
    """A shard as ``datasets`` writes it, of phantoms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": pa.array(
            [{"bytes": encoded(index), "path": f"{index}.png"} for index in indexes],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "labels": [[[0, 1], [2], []][index % 3] for index in indexes],
        "label": [index % 2 for index in indexes],
        "Mass": [index % 4 for index in indexes],
        "view": [index % 2 for index in indexes],
        "report": [f"FINDINGS: Film {index} is clear." for index in indexes],
        "patient_id": [f"p{index // 2}" for index in indexes],
        **changed,
    }
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two of three shards of training and one of test, of five, four and two rows."""
    folder = tmp_path / "Röntgen 1"
    write_shard(folder / "data" / "train-00000-of-00003.parquet", [0, 1, 2, 3, 4])
    write_shard(folder / "data" / "train-00001-of-00003.parquet", [5, 6, 7, 8])
    write_shard(folder / "data" / "test-00000-of-00001.parquet", [10, 11])
    return folder


COLUMNS: dict[str, Any] = {"text": "report", "patient": "patient_id"}


def settings(folder: Path, columns: dict[str, Any], **corpus: object) -> Any:
    kept = {"kind": "hf", "path": str(folder), "image_size": 32, "views": "all", "max_bad_fraction": 0.9}
    return parse_config({"corpus": {**kept, "columns": columns, **corpus}}, "test")


def read(folder: Path, workspace: Path, columns: dict[str, Any], **corpus: object) -> Corpus:
    perform("corpus", settings(folder, columns, **corpus), workspace, silent)
    return Corpus.open(workspace / "data" / "corpus")


def given(workspace: Path) -> list[tuple[str, str, str]]:
    rows = pq.read_table(workspace / "data" / "corpus" / "given.parquet").to_pylist()
    return [(row["study_id"].split("#")[-1], row["name"], row["status"]) for row in rows]


def skipped(workspace: Path) -> list[tuple[str, int | None, str]]:
    rows = pd.read_csv(workspace / "data" / "corpus" / "skipped.csv", dtype={"row": "Int64"})
    numbers = [None if pd.isna(number) else int(number) for number in rows["row"]]
    return list(zip([Path(each).name for each in rows["source"]], numbers, rows["reason"], strict=True))


def test_shards(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = read(shards, tmp_path / "w", {**COLUMNS, "findings": "labels", "view": "view"})
    studies, views = corpus.studies().to_pylist(), corpus.views().to_pylist()
    assert len(studies) == len(views) == 11
    assert studies[0]["study_id"] == "data/test-00000-of-00001.parquet#0"
    assert studies[0]["findings"] == "Film 10 is clear."
    assert [row["split"] for row in studies[:2]] == ["test", "test"]
    assert all(row["split"] != "test" for row in studies[2:])
    assert {row["projection"] for row in views} == {"PA", "lateral"}
    assert studies[2]["patient_id"] == "p0"
    assert given(tmp_path / "w")[:4] == [
        ("0", NO_FINDING, "present"),
        ("0", "Effusion", "present"),
        ("0", "Mass", "present"),
        ("1", NO_FINDING, "present"),
    ]
    assert "2 of 3 shards of train are there" in caplog.text
    assert skipped(tmp_path / "w") == []


def test_every_row_has_its_own_film(shards: Path, tmp_path: Path) -> None:
    corpus = read(shards, tmp_path / "w", COLUMNS)
    films = corpus.images(np.arange(11)).astype(float)
    for row, index in enumerate([10, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8]):
        assert min(range(12), key=lambda other: np.abs(films[row] - halved(other)).mean()) == index
    config = settings(shards, COLUMNS)
    params = CorpusParams(seed=config.seed, corpus=config.corpus)
    report = stage.run(params, workspace_paths(tmp_path / "w"), silent, update=True)
    assert report.taken_over == 11
    again = Corpus.open(tmp_path / "w" / "data" / "corpus").images(np.arange(11))
    assert np.array_equal(again, films), "rows of one file are told apart when films are taken over"


def halved(index: int) -> np.ndarray:
    return picture(index).astype(float).reshape(32, 2, 32, 2).mean(axis=(1, 3))


def test_views_can_be_sent_and_read_a_row_group_at_a_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_corpus(settings(shards, COLUMNS).corpus, 0)
    studies = [row for row in source.studies if isinstance(row, Study)]
    views = pickle.loads(pickle.dumps([study.views[0] for study in studies]))
    groups = []
    plain = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        groups.append(group)
        return plain(file, group, **options)

    monkeypatch.setattr(hf.pq.ParquetFile, "read_row_group", noted)
    hf._group.cache_clear()
    for view in views:
        view.load()
    assert groups == [0, 0, 1, 2, 0, 1], "each group is read once"
    assert views[3].files == (shards / "data" / "train-00000-of-00003.parquet",)


def test_labels_by_class(shards: Path, tmp_path: Path) -> None:
    columns = {**COLUMNS, "text": None, "findings": "label", "labels": ["Mass"], "origin": "readers"}
    read(shards / "data" / "train-00000-of-00003.parquet", tmp_path / "w", columns)
    assert given(tmp_path / "w") == [
        ("0", NO_FINDING, "present"),
        ("1", "Effusion", "present"), ("1", "Mass", "uncertain"),
        ("2", NO_FINDING, "present"), ("2", "Mass", "absent"),
        ("3", "Effusion", "present"), ("3", "Mass", "present"),
        ("4", NO_FINDING, "present"),
    ]  # fmt: skip


CARD = """---
license: cc-by-4.0
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': Normal
          '1': Mass
  - name: labels
    sequence:
      class_label:
        names:
          '0': A
          '1': B
          '2': C
---
# Card
"""


def without_metadata(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def test_classes_of_the_card(shards: Path, tmp_path: Path) -> None:
    without_metadata(shards)
    with pytest.raises(InputError, match=r"'label' holds numbers of classes, which neither it nor README\.md names"):
        read(shards, tmp_path / "w", {**COLUMNS, "findings": "label"})
    (shards / "README.md").write_text(CARD)
    read(shards, tmp_path / "w", {**COLUMNS, "findings": "label"}, max_studies=2)
    assert [row[1] for row in given(tmp_path / "w")] == [NO_FINDING, "Mass"]
    read(shards, tmp_path / "v", {**COLUMNS, "findings": "labels"}, max_studies=1)
    assert [row[1] for row in given(tmp_path / "v")] == ["C"], "the class 2 of film 10"


def test_rows_that_name_files_and_bare_bytes(tmp_path: Path) -> None:
    write_image(tmp_path / "d" / "img" / "0.png", 0)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = [{"bytes": None, "path": name} for name in ("img/0.png", "../0.png")]
    cells = [*named, None, {"bytes": b"", "path": None}]
    write_shard(tmp_path / "d" / "train.parquet", [0, 1, 2, 3], image=pa.array(cells, struct))
    assert read(tmp_path / "d", tmp_path / "w", COLUMNS).views().num_rows == 1
    reasons = [reason for _, _, reason in skipped(tmp_path / "w")]
    assert "leaves its folder" in reasons[0]
    assert reasons[1:] == ["no image", "no image"]
    write_shard(tmp_path / "e" / "train.parquet", [0, 1], image=pa.array([encoded(0, "JPEG"), encoded(1)], pa.binary()))
    assert read(tmp_path / "e", tmp_path / "v", COLUMNS).views().num_rows == 2


def test_dicom_in_a_shard(tmp_path: Path) -> None:
    path = saved(tmp_path / "film", film(picture(0).astype("u2") << 4, 12, WindowCenter=2048, WindowWidth=4096))
    write_shard(tmp_path / "d" / "train.parquet", [0], image=pa.array([path.read_bytes()], pa.binary()))
    films = read(tmp_path / "d", tmp_path / "w", COLUMNS).images(np.array([0]))
    assert np.abs(films[0] - halved(0)).mean() < 8


def test_bad_rows_of_shards_have_their_file_and_number(shards: Path, tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [encoded(5), b"no image", b"", encoded(8)[:400]]
    write_shard(
        shards / "data" / "train-00001-of-00003.parquet", [5, 6, 7, 8],
        image=pa.array([{"bytes": each, "path": None} for each in images], struct),
        report=["", "Clear.", "Clear.", "Clear."],
        study=["a", "b", "c", "d"],
    )  # fmt: skip
    for name in ("train-00000-of-00003", "test-00000-of-00001"):
        (shards / "data" / f"{name}.parquet").unlink()
    write_shard(shards / "data" / "validation.parquet", [1, 2], study=["d", ""])
    read(shards, tmp_path / "w", {**COLUMNS, "study": "study"})
    told = {(name, reason.split(" (")[0]) for name, _, reason in skipped(tmp_path / "w")}
    assert ("train-00001-of-00003.parquet", "no text in column 'report'") in told
    assert ("train-00001-of-00003.parquet row 1", "not a readable image") in told
    assert ("train-00001-of-00003.parquet row 2", "no image") in told
    same = "another patient than row 5 of train-00001-of-00003.parquet, which is of the same study"
    assert ("validation.parquet", same) in told
    assert ("validation.parquet", "no study in column 'study'") in told


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def two_images(folder: Path) -> None:
    write_shard(folder / "data" / "train-00000-of-00003.parquet", [0], mask=pa.array([b"x"], pa.binary()))
    for name in ("train-00001-of-00003", "test-00000-of-00001"):
        (folder / "data" / f"{name}.parquet").unlink()


def two_subsets(folder: Path) -> None:
    (folder / "data").rename(folder / "small")
    write_shard(folder / "large" / "train-00000-of-00001.parquet", [0])


@pytest.mark.parametrize(
    ("damage", "columns", "reason"),
    [
        (lambda folder: half(folder / "data" / "test-00000-of-00001.parquet"), {}, r"test-00000.*: cut off or damaged"),
        (lambda folder: None, {"text": "reprt"}, "no column 'reprt'; did you mean 'report'"),
        (lambda folder: None, {"text": None}, r"set corpus\.columns\.text"),
        (lambda folder: None, {"mask": "label"}, "masks aren't read from Parquet"),
        (lambda folder: None, {"patient": None}, "'patient_id' seems to hold patients"),
        (two_images, {}, "images are in columns image, mask"),
        (two_subsets, {}, r"several subsets \(large, small\)"),
        (
            lambda folder: write_shard(folder / "data" / "test-00000-of-00001.parquet", [0], label=[7]),
            {"findings": "label"},
            "'label' holds '7', but its classes are 0 to 1",
        ),
    ],
)
def test_damaged_shards_are_one_error(
    shards: Path, tmp_path: Path, damage: Callable[[Path], None], columns: dict[str, Any], reason: str
) -> None:
    damage(shards)
    with pytest.raises(InputError, match=reason) as caught:
        read(shards, tmp_path / "w", {**COLUMNS, **columns})
    assert "\n" not in str(caught.value)


def test_a_row_group_that_is_damaged(shards: Path, tmp_path: Path) -> None:
    path = shards / "data" / "test-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[100:600] = bytes(500)
    path.write_bytes(data)
    read(shards, tmp_path / "w", COLUMNS)
    assert {name for name, _, _ in skipped(tmp_path / "w")} <= {f"{path.name} row 0", f"{path.name} row 1"}
    assert skipped(tmp_path / "w")


# image folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images in split folders, with a metadata file of each form in each."""
    root = tmp_path / "Bilder"
    rows = {"train": [0, 1, 2], "validation": [3], "test": [4, 5]}
    for split, indexes in rows.items():
        for index in indexes:
            write_image(root / split / f"{index} ü.png", index)
    described = {
        split: pd.DataFrame(
            {
                "file_name": [f"{index} ü.png" for index in indexes],
                "report": [f"Film {index}." for index in indexes],
                "Mass": [index % 2 for index in indexes],
                "sex": ["F"] * len(indexes),
            }
        )
        for split, indexes in rows.items()
    }
    described["train"].to_csv(root / "train" / "metadata.csv", index=False)
    described["validation"].to_json(root / "validation" / "metadata.jsonl", orient="records", lines=True)
    described["test"].to_parquet(root / "test" / "metadata.parquet")
    return root


DESCRIBED: dict[str, Any] = {"text": "report", "labels": ["Mass"], "sex": "sex"}


def test_an_image_folder_with_metadata(folders: Path, tmp_path: Path) -> None:
    corpus = read(folders, tmp_path / "w", DESCRIBED)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    assert set(studies) == {
        *(f"train/{index} ü.png" for index in range(3)), "validation/3 ü.png", "test/4 ü.png", "test/5 ü.png",
    }  # fmt: skip
    assert studies["test/4 ü.png"]["split"] == "test"
    assert studies["validation/3 ü.png"]["split"] == "val"
    assert {row["sex"] for row in studies.values()} == {"F"}
    states = {row[0]: row[2] for row in given(tmp_path / "w")}
    assert states["train/1 ü.png"] == states["validation/3 ü.png"] == "present"
    assert states["test/4 ü.png"] == "absent"


def test_one_metadata_file_for_all(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_image(tmp_path / "d" / split / "a.jpg", 0)
    names, found = ["train/a.jpg", "test/a.jpg", "train/gone.jpg"], ["Mass", "Effusion"]
    lines = [{"file_name": name, "text": "Clear.", "finding": found} for name in names]
    (tmp_path / "d" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    corpus = read(tmp_path / "d", tmp_path / "w", {"findings": "finding"})
    assert [(row["study_id"], row["split"] == "test") for row in corpus.studies().to_pylist()] == [
        ("train/a.jpg", False), ("test/a.jpg", True),
    ]  # fmt: skip
    assert {row[1] for row in given(tmp_path / "w")} == {"Mass", "Effusion"}


def test_images_that_are_there_in_part(folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders / "train" / "1 ü.png").unlink()
    assert read(folders, tmp_path / "w", DESCRIBED).n_studies() == 5
    assert "1 of 3 images aren't there; their rows are left out" in caplog.text
    for path in folders.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"none of its images is among 0 in .*, e\.g\. '4 ü\.png'"):
        read(folders, tmp_path / "v", DESCRIBED)


def test_metadata_elsewhere_than_images(folders: Path, tmp_path: Path) -> None:
    images = tmp_path / "elsewhere"
    (folders / "train").rename(images)
    (folders / "train").mkdir()
    (images / "metadata.csv").rename(folders / "train" / "metadata.csv")
    for name in ("validation", "test"):
        next((folders / name).glob("metadata.*")).unlink()
    assert read(folders, tmp_path / "w", DESCRIBED, images=str(images)).n_studies() == 3
    with pytest.raises(InputError, match=r"corpus\.images is not a folder"):
        read(folders, tmp_path / "w", DESCRIBED, images="/nowhere")


def test_bad_rows_of_metadata(folders: Path, tmp_path: Path) -> None:
    with (folders / "train" / "metadata.csv").open("a") as stream:
        stream.write("2 ü.png,Other.,0,F\n0 ü.png,a,b,1,F\n1 ü.png,Film 1.,3,F\n")
    with (folders / "validation" / "metadata.jsonl").open("a") as stream:
        stream.write('{"file_name": "3\n{"file_name": "3 ü.png", "sex": "F", "Mass": 1}\n[]\n')
    (folders / "test" / "4 ü.png").write_bytes(b"")
    read(folders, tmp_path / "w", DESCRIBED)
    told = [(name, row, reason.split(" (")[0]) for name, row, reason in skipped(tmp_path / "w")]
    assert ("metadata.csv", 6, "5 cells where the header has 4") in told
    assert ("metadata.csv", 5, "another report than row 4 of metadata.csv, which is of the same study") in told
    assert ("metadata.csv", 7, "another findings than row 3 of metadata.csv, which is of the same study") in told
    assert [row for name, row, _ in told if name == "metadata.jsonl"] == [2, 3, 4]
    assert ("4 ü.png", None, "the file is empty") in told


@pytest.mark.parametrize(
    ("damage", "columns", "reason"),
    [
        (lambda folder: None, {"text": "text"}, "metadata.parquet: no column 'text'"),
        (lambda folder: (folder / "test" / "metadata.parquet").write_bytes(b"PAR1"), {}, "metadata.parquet: cut off"),
        (lambda folder: (folder / "train" / "metadata.csv").write_text("file_name,report,Mass,sex\n"), {}, "no rows"),
        (lambda folder: (folder / "validation" / "metadata.jsonl").write_text("x"), {}, "not JSON Lines"),
        (lambda folder: (folder / "validation" / "metadata.jsonl").write_text(""), {}, "not JSON Lines"),
        (lambda folder: (folder / "validation" / "metadata.jsonl").write_text('{"a": 1}'), {}, "no column 'file_name'"),
    ],
)
def test_damaged_metadata_is_one_error(
    folders: Path, tmp_path: Path, damage: Callable[[Path], Any], columns: dict[str, Any], reason: str
) -> None:
    damage(folders)
    with pytest.raises(InputError, match=reason):
        read(folders, tmp_path / "w", {**DESCRIBED, **columns})


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Images in folders of what they show, in folders of splits."""
    root = tmp_path / "chest_xray"
    names = ["train/NORMAL/a.jpeg", "train/PNEUMONIA/a.jpeg", "val/NORMAL/b.jpeg", "test/PNEUMONIA/c.jpeg"]
    for number, name in enumerate(names):
        write_image(root / name, number)
    (root / "test" / "PNEUMONIA" / "notes.txt").write_text("x")
    return root


def test_folders_by_class(classes: Path, tmp_path: Path) -> None:
    write_image(classes / "stray.png", 5)
    corpus = read(classes, tmp_path / "w", {"origin": "physicians"})
    studies = {row["study_id"]: row["split"] for row in corpus.studies().to_pylist()}
    assert studies["test/PNEUMONIA/c.jpeg"] == "test"
    assert studies["val/NORMAL/b.jpeg"] == "val"
    assert given(tmp_path / "w") == [
        ("test/PNEUMONIA/c.jpeg", "PNEUMONIA", "present"), ("train/NORMAL/a.jpeg", NO_FINDING, "present"),
        ("train/PNEUMONIA/a.jpeg", "PNEUMONIA", "present"), ("val/NORMAL/b.jpeg", NO_FINDING, "present"),
    ]  # fmt: skip
    assert [(name, reason) for name, _, reason in skipped(tmp_path / "w")] == [
        ("stray.png", "in no folder that is called after what it shows")
    ]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda place: None, "not found"),
        (lambda place: place.mkdir(), "no Parquet with images"),
        (lambda place: write_image(place / "a.png", 0), "no Parquet with images"),
        (lambda place: place.write_text("x"), "neither a folder nor Parquet with images"),
    ],
)
def test_nothing_to_read(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "d")
    with pytest.raises(InputError, match=reason):
        read(tmp_path / "d", tmp_path / "w", {})


def test_recognised(shards: Path, folders: Path, classes: Path, tmp_path: Path) -> None:
    what = recognise(shards)
    assert what is not None
    columns = {"text": "report", "findings": None, "patient": "patient_id"}
    assert what.settings == {"kind": "hf", "path": str(shards), "columns": columns}
    assert what.found[0] == "11 rows in 3 shards"
    described = recognise(folders)
    assert described is not None
    assert described.settings["columns"] == {"text": "report", "patient": None}
    by_class = recognise(classes)
    assert by_class is not None
    assert by_class.found == ("2 PNEUMONIA, 2 NORMAL",)
    (tmp_path / "empty").mkdir()
    assert recognise(tmp_path / "empty") is None
    assert recognise(classes / "stray.txt") is None
    assert recognise(classes / "test" / "PNEUMONIA" / "notes.txt") is None
