import gzip
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers import chexpert
from medsynth_core.corpus.readers.chexpert import LABELS
from medsynth_core.errors import InputError
from tests.archives import read_archive, skipped

TRAIN = [
    # film, sex, age, view, AP/PA, labels
    ("train/patient00001/study1/view1_frontal", "Female", 68, "Frontal", "AP", {"Edema": 1, "Pneumonia": -1}),
    ("train/patient00002/study1/view1_frontal", "Male", 87, "Frontal", "PA", {"No Finding": 1, "Pneumothorax": 0}),
    ("train/patient00002/study2/view1_frontal", "Male", 87, "Frontal", "", {"Fracture": 1}),
    ("train/patient00002/study2/view2_lateral", "Male", 87, "Lateral", "", {"Fracture": 1}),
    ("train/patient00003/study1/view1_frontal", "Unknown", 0, "Frontal", "AP", {"Support Devices": 1}),
]
VALID = [
    ("valid/patient64541/study1/view1_frontal", "Male", 73, "Frontal", "AP", dict.fromkeys(LABELS, 0) | {"Edema": 1}),
]
TEST = {"Path": ["test/patient64741/study1/view1_frontal.jpg"], "Edema": [0.0], "Cardiomegaly": [1.0]}


@lru_cache
def picture(index: int) -> Image.Image:
    return Image.fromarray(phantom_study(0, index, 64).views[0].load())


def table(rows: list[Any], prefix: str = "CheXpert-v1.0-small/") -> pd.DataFrame:
    facts = [
        {"Path": f"{prefix}{film}.jpg", "Sex": sex, "Age": age, "Frontal/Lateral": view, "AP/PA": ap_pa}
        | {name: labels.get(name) for name in LABELS}
        for film, sex, age, view, ap_pa, labels in rows
    ]
    return pd.DataFrame(facts).astype(dict.fromkeys(LABELS, float))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """CheXpert-v1.0-small under another name, with a space and a letter beyond ASCII in it."""
    folder = tmp_path / "Röntgen archive"
    for index, row in enumerate((*TRAIN, *VALID)):
        path = folder / f"{row[0]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    table(TRAIN).to_csv(folder / "train.csv", index=False)
    table(VALID).to_csv(folder / "valid.csv", index=False)
    return folder


read = partial(read_archive, "chexpert")


def test_studies_views_labels_and_people(archive: Path) -> None:
    (archive / "test/patient64741/study1").mkdir(parents=True)
    picture(9).save(archive / "test/patient64741/study1/view1_frontal.jpg")
    pd.DataFrame(TEST).to_csv(archive / "test_labels.csv", index=False)
    facts = {"Path": TEST["Path"], "Sex": ["Female"], "Age": [50], "Frontal/Lateral": ["Frontal"], "AP/PA": ["PA"]}
    pd.DataFrame(facts).to_csv(archive / "test.csv", index=False)
    report, corpus = read(archive)
    assert (sum(report.studies.values()), sum(report.views.values()), report.skipped) == (6, 7, 0)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    assert {name: (row["sex"], row["age"], row["n_views"]) for name, row in studies.items()} == {
        "patient00001-study1": ("F", 68, 1),
        "patient00002-study1": ("M", 87, 1),
        "patient00002-study2": ("M", 87, 2),
        "patient00003-study1": (None, None, 1),
        "patient64541-study1": ("M", 73, 1),
        "patient64741-study1": ("F", 50, 1),
    }
    assert {studies[f"patient{n}-study1"]["split"] for n in ("00001", "00002", "00003")} <= {"train", "judge", "val"}
    assert studies["patient64541-study1"]["split"] == "val"
    assert studies["patient64741-study1"]["split"] == "test"
    assert studies["patient00002-study2"]["patient_id"] == "patient00002"
    given = corpus.given(list(studies))
    assert {(each.name, each.status, each.origin) for each in given["patient00001-study1"]} == {
        ("Edema", "present", "CheXpert labeller"),
        ("Pneumonia", "uncertain", "CheXpert labeller"),
    }
    assert {(each.name, each.status) for each in given["patient00002-study1"]} == {
        ("no finding", "present"),
        ("Pneumothorax", "absent"),
    }
    assert len(given["patient64541-study1"]) == 13, "that it isn't normal says nothing of a finding"
    assert {each.origin for each in given["patient64541-study1"]} == {"radiologist"}
    assert {(each.name, each.status) for each in given["patient64741-study1"]} == {
        ("Edema", "absent"),
        ("Cardiomegaly", "present"),
    }
    views = {row["view_id"]: row["projection"] for row in corpus.views().to_pylist()}
    assert views["train/patient00001/study1/view1_frontal.jpg"] == "AP"
    assert views["train/patient00002/study2/view1_frontal.jpg"] == "frontal"
    assert views["train/patient00002/study2/view2_lateral.jpg"] == "lateral"
    assert views["test/patient64741/study1/view1_frontal.jpg"] == "PA"


def test_the_batches_of_the_full_archive_and_a_part_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "chexpertchestxrays-u20210408"
    batch = folder / "CheXpert-v1.0 batch 2 (train 1)" / "patient00002" / "study2"
    batch.mkdir(parents=True)
    picture(0).save(batch / "view2_lateral.jpg")
    first = folder / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    table(TRAIN, "CheXpert-v1.0/").to_csv(first / "train.csv", index=False)
    table(VALID, "CheXpert-v1.0/").to_csv(first / "valid.csv", index=False)
    with caplog.at_level(logging.WARNING):
        report, corpus = read(folder)
    assert (sum(report.views.values()), report.skipped) == (1, 0)
    assert "4 of 5 films aren't on disk" in caplog.text
    assert "valid.csv: 1 of 1 films aren't on disk" in caplog.text
    assert corpus.studies().column("study_id").to_pylist() == ["patient00002-study2"]


def test_films_elsewhere_packed_tables_and_a_limit(archive: Path) -> None:
    (archive / "train").rename(archive.parent / "films")
    data = (archive / "train.csv").read_bytes()
    (archive / "train.csv.gz").write_bytes(gzip.compress(data))
    (archive / "train.csv").unlink()
    report, _ = read(archive, images=str(archive.parent / "films"), max_studies=2)
    assert (sum(report.studies.values()), sum(report.views.values())) == (2, 2)


def test_it_is_recognised(archive: Path) -> None:
    seen = chexpert.recognise(archive)
    assert seen is not None
    assert seen.settings == {"kind": "chexpert", "path": str(archive)}
    assert "train: 5 films in train.csv, labelled by CheXpert labeller" in seen.found
    assert "films: 5 of 5 looked for are on disk" in seen.found
    assert "test: no table" in seen.missing
    assert chexpert.recognise(archive / "train") is None
    (archive.parent / "other").mkdir()
    pd.DataFrame({"text": ["a"]}).to_csv(archive.parent / "other" / "train.csv", index=False)
    assert chexpert.recognise(archive.parent / "other") is None


def cut_gz(folder: Path) -> None:
    data = gzip.compress((folder / "train.csv").read_bytes())
    (folder / "train.csv").unlink()
    (folder / "train.csv.gz").write_bytes(data[: len(data) // 2])


def damaged_gz(folder: Path) -> None:
    data = bytearray(gzip.compress((folder / "train.csv").read_bytes()))
    data[40:60] = b"\xff" * 20
    (folder / "train.csv").unlink()
    (folder / "train.csv.gz").write_bytes(data)


def change(**columns: Callable[[pd.Series], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = pd.read_csv(folder / "train.csv", dtype=str, keep_default_na=False)
        for name, made in columns.items():
            rows[name] = made(rows[name])
        rows.to_csv(folder / "train.csv", index=False)

    return damage


def rename_column(folder: Path) -> None:
    pd.read_csv(folder / "train.csv").rename(columns={"Edema": "Oedema"}).to_csv(folder / "train.csv", index=False)


def no_tables(folder: Path) -> None:
    (folder / "train.csv").unlink()
    (folder / "valid.csv").unlink()


def no_films(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.unlink()


def two_tables(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "train.csv").write_bytes((folder / "train.csv").read_bytes())
    (folder / "train.csv").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_tables, r"no train\.csv, valid\.csv or test_labels\.csv"),
        (rename_column, r"no column 'Edema'; did you mean 'Oedema'"),
        (cut_gz, r"train\.csv\.gz: cut off or damaged"),
        (damaged_gz, r"train\.csv\.gz: cut off or damaged"),
        (no_films, "no film there; set corpus.images"),
        (two_tables, r"both a/train\.csv and b/train\.csv"),
        (
            change(Path=lambda cells: [str(n) for n in range(len(cells))]),
            "column 'Path' holds no film's path, e.g. '0'",
        ),
        (
            lambda folder: (folder / "train.csv").write_bytes(b""),
            r"train\.csv: no column 'Path'|train\.csv: .*(empty|not)",
        ),
    ],
)
def test_what_stops_it(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    with pytest.raises(InputError, match=reason):
        read(archive)


def test_ids_that_lost_their_zeros_are_told_of(archive: Path) -> None:
    change(Path=lambda cells: cells.str.replace("patient0000", "patient"))(archive)
    (archive / "valid.csv").unlink()
    with pytest.raises(
        InputError, match=r"none of 5 films is in .*'patient1/study1/view1_frontal' here, 'patient00001/"
    ):
        read(archive)


def repeat(folder: Path) -> None:
    rows = table(TRAIN)
    pd.concat([rows, rows.head(1)]).to_csv(folder / "train.csv", index=False)


def dangling(folder: Path) -> None:
    path = folder / "train/patient00001/study1/view1_frontal.jpg"
    path.unlink()
    path.symlink_to(folder / "gone.jpg")


def emptied(folder: Path) -> None:
    (folder / "train/patient00001/study1/view1_frontal.jpg").write_bytes(b"")


def one_label(value: str) -> Callable[[Path], None]:
    return change(Edema=lambda cells: [value, *cells[1:]])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (repeat, "train.csv,7,the film of row 2 again"),
        (dangling, "a link to"),
        (emptied, "the file is empty"),
        (one_label("2"), "train.csv,2,\"'2' for 'Edema'"),
        (change(Fracture=lambda cells: [*cells[:3], "0.0", cells[4]]), 'train.csv,5,"other findings than row 4'),
        (change(Age=lambda cells: [*cells[:3], "88", cells[4]]), 'train.csv,5,"another age than row 4'),
        (change(Path=lambda cells: ["", *cells[1:]]), "train.csv,2,path '' is no film's"),
        (change(**dict.fromkeys(LABELS, lambda cells: ["", *cells[1:]])), "train.csv,2,no finding is given"),
    ],
)
def test_a_bad_row_is_counted(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    report, _ = read(archive, max_bad_fraction=0.5)
    assert report.skipped == 1
    assert reason in skipped(archive)


def test_a_row_that_is_cut_off_is_counted(archive: Path) -> None:
    lines = (archive / "train.csv").read_text().splitlines()
    (archive / "train.csv").write_text("\n".join([*lines[:-1], lines[-1][:60]]))
    report, _ = read(archive, max_bad_fraction=0.5)
    assert report.skipped == 1
    assert "cells where the header has 19" in skipped(archive)


def test_a_wrong_extension_is_read_by_its_content(archive: Path) -> None:
    path = archive / "train/patient00001/study1/view1_frontal.jpg"
    picture(0).save(path.with_suffix(".png"))
    path.unlink()
    assert read(archive)[0].skipped == 0
