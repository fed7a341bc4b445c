import gzip
import json
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers import chexpert_plus
from medsynth_core.corpus.readers.chexpert import LABELS
from medsynth_core.errors import InputError
from tests.archives import read_archive, skipped

TABLE = "df_chexpert_plus_240401.csv"
COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order",
    "report", "section_narrative", "section_clinical_history", "section_history", "section_comparison",
    "section_technique", "section_procedure_comments", "section_findings", "section_impression",
    "section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race", "ethnicity",
    "interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split",
)  # fmt: skip
REPORT = 'NARRATIVE:\nHISTORY: Cough, "worse".\nFINDINGS: Small left effusion.\nIMPRESSION:\n1. Effusion.'


def film(path: str, patient: str, **cells: object) -> dict[str, Any]:
    side = path.rpartition("_")[2]
    told = {
        "path_to_image": f"{path}.jpg", "path_to_dcm": f"{path}.dcm", "frontal_lateral": side.capitalize(),
        "ap_pa": "AP" if side == "frontal" else "", "deid_patient_id": patient, "patient_report_date_order": 1,
        "report": REPORT, "section_findings": "Small left effusion.", "section_impression": "1. Effusion.",
        "age": 61.0, "sex": "Male", "race": "White", "split": path.partition("/")[0],
    }  # fmt: skip
    return dict.fromkeys(COLUMNS, "") | told | cells


FILMS = [
    film("train/patient00007/study1/view1_frontal", "patient00007"),
    film("train/patient00007/study1/view2_lateral", "patient00007"),
    film("train/patient00007/study2/view1_frontal", "patient00007", section_impression="", ap_pa="PA", age=62.0),
    film("train/patient00042/study5/view1_frontal", "patient00042", section_findings="", section_impression="",
         sex="Unknown", race="Unknown", age=0.0),
    film("valid/patient64541/study1/view1_frontal", "patient64541", sex="Female", race="Asian", age=90.0),
]  # fmt: skip
LABELLED: list[dict[str, float | None]] = [
    {"Pleural Effusion": 1.0, "Edema": -1.0},
    {"Pleural Effusion": 1.0, "Edema": -1.0},
    {"No Finding": 1.0},
    {"No Finding": 1.0},
    {"Pneumothorax": 0.0, "No Finding": 1.0},
]


@lru_cache
def picture(index: int) -> Image.Image:
    return Image.fromarray(phantom_study(0, index, 64).views[0].load())


def lines(labelled: list[dict[str, float | None]]) -> str:
    told = [
        {"path_to_image": row["path_to_image"]} | dict.fromkeys(LABELS) | labels
        for row, labels in zip(FILMS, labelled, strict=True)
    ]
    return "".join(f"{json.dumps(line)}\n" for line in told)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """CheXpert Plus with PNGs."""
    folder = tmp_path / "chexpert plus ü"
    for index, row in enumerate(FILMS):
        path = folder / "PNG" / Path(row["path_to_image"]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    pd.DataFrame(FILMS).to_csv(folder / TABLE, index=False)
    (folder / "chexbert_labels").mkdir()
    (folder / "chexbert_labels" / "impression_fixed.json").write_text(lines(LABELLED))
    (folder / "chexbert_labels" / "report_fixed.json").write_text(lines([{"Fracture": 1.0}] * 5))
    return folder


read = partial(read_archive, "chexpert-plus")


def test_reports_films_labels_and_people(archive: Path) -> None:
    report, corpus = read(archive)
    assert (sum(report.studies.values()), sum(report.views.values()), report.skipped) == (4, 5, 0)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    first = studies["patient00007-study1"]
    assert (first["findings"], first["impression"]) == ("Small left effusion.", "1. Effusion.")
    assert (first["sex"], first["age"], first["race"], first["n_views"]) == ("M", 61, "White", 2)
    whole = studies["patient00042-study5"]
    assert (whole["findings"], whole["impression"]) == ("Small left effusion.", "1. Effusion."), "of the whole report"
    assert (whole["sex"], whole["age"], whole["race"]) == (None, None, None)
    assert [part.reason for part in corpus.left_out(["patient00042-study5"])["patient00042-study5"]]
    last = studies["patient64541-study1"]
    assert (last["split"], last["sex"], last["age"], last["race"]) == ("val", "F", 90, "Asian")
    given = corpus.given(list(studies))
    assert {(each.name, each.status, each.origin) for each in given["patient00007-study1"]} == {
        ("Pleural Effusion", "present", "CheXbert of the impression"),
        ("Edema", "uncertain", "CheXbert of the impression"),
    }
    assert not given.get("patient00007-study2"), "what was read of an impression that isn't there says nothing"
    assert {(each.name, each.status) for each in given["patient64541-study1"]} == {
        ("no finding", "present"),
        ("Pneumothorax", "absent"),
    }
    projections = sorted(row["projection"] for row in corpus.views().to_pylist())
    assert projections == ["AP", "AP", "AP", "PA", "lateral"]


def test_other_labels_where_the_impressions_are_not_there(archive: Path) -> None:
    (archive / "chexbert_labels" / "impression_fixed.json").unlink()
    _, corpus = read(archive)
    given = corpus.given(["patient00007-study2"])["patient00007-study2"]
    assert [(each.name, each.origin) for each in given] == [("Fracture", "CheXbert of the report")]


def test_chexperts_own_films_and_reports_without_films(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    (archive / "PNG").rename(archive.parent / "gone")
    path = archive.parent / "CheXpert-v1.0-small" / "valid/patient64541/study1/view1_frontal.jpg"
    path.parent.mkdir(parents=True)
    picture(4).save(path)
    with caplog.at_level(logging.WARNING):
        report, corpus = read(archive, images=str(archive.parent / "CheXpert-v1.0-small"), max_studies=2)
    assert "4 of 5 films aren't on disk" in caplog.text
    assert sum(report.views.values()) == 1
    assert corpus.studies().column("study_id").to_pylist() == ["patient64541-study1", "patient00007-study1"]
    report, _ = read(archive)
    assert (sum(report.studies.values()), sum(report.views.values())) == (4, 0)


def test_it_is_recognised(archive: Path) -> None:
    seen = chexpert_plus.recognise(archive)
    assert seen is not None
    assert seen.settings == {"kind": "chexpert-plus", "path": str(archive)}
    assert f"{TABLE}: 5 films with their reports" in seen.found
    assert "films: 5 of 5 looked for are on disk" in seen.found
    assert "split train: 4 films" in seen.found
    assert not seen.missing
    assert chexpert_plus.recognise(archive / "PNG") is None
    assert chexpert_plus.recognise(archive / TABLE) is None


def change(**columns: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = pd.read_csv(folder / TABLE, dtype=str, keep_default_na=False)
        for name, made in columns.items():
            rows[name] = made(rows[name].tolist())
        rows.to_csv(folder / TABLE, index=False)

    return damage


def labels(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "chexbert_labels" / "impression_fixed.json").write_text(text)

    return damage


def rename_column(folder: Path) -> None:
    pd.read_csv(folder / TABLE).rename(columns={"section_findings": "findings"}).to_csv(folder / TABLE, index=False)


def cut_gz(folder: Path) -> None:
    data = gzip.compress((folder / TABLE).read_bytes())
    (folder / TABLE).unlink()
    (folder / f"{TABLE}.gz").write_bytes(data[: len(data) // 2])


def cut_labels(folder: Path) -> None:
    path = folder / "chexbert_labels" / "impression_fixed.json"
    data = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_suffix(".json.gz").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / TABLE).unlink(), r"no df_chexpert_plus_240401\.csv"),
        (rename_column, "no column 'section_findings'"),
        (cut_gz, "cut off or damaged"),
        (cut_labels, r"impression_fixed\.json\.gz: cut off or damaged"),
        (change(path_to_image=lambda cells: [c.replace("patient000", "patient") for c in cells[:4]] + [""]),
         "none of 4 films is in .*'patient07/study1/view1_frontal' here, 'patient00007/"),
        (labels(lines(LABELLED).replace("patient", "patient9")), "none of 4 studies .*'patient900007/study1' here"),
        (labels("[1]\n"), "no line is the labels of a film"),
        (labels(""), "no line is the labels of a film"),
    ],
)  # fmt: skip
def test_what_stops_it(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    with pytest.raises(InputError, match=reason):
        read(archive)


def emptied(folder: Path) -> None:
    (folder / "PNG/train/patient00007/study1/view1_frontal.png").write_bytes(b"")


def dangling(folder: Path) -> None:
    path = folder / "PNG/train/patient00007/study1/view1_frontal.png"
    path.unlink()
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (emptied, "the file is empty"),
        (dangling, "a link to"),
        (change(path_to_image=lambda cells: [cells[0], cells[0], *cells[2:]]), "3,the film of row 2 again"),
        (change(report=lambda cells: [cells[0], "Clear.", *cells[2:]]), '3,"another report than row 2'),
        (change(deid_patient_id=lambda cells: [*cells[:4], ""]), "6,no patient in column"),
        (change(report=lambda cells: [*cells[:3], "", cells[4]]), '5,"no report, and no findings are given'),
        (labels(lines(LABELLED) + '{"path_to_image": "train/pat'), "impression_fixed.json,6,no JSON"),
        (labels(lines(LABELLED).replace("-1.0", "3.0", 1)), "\"'3.0' for 'Edema'"),
        (labels(lines(LABELLED).replace("-1.0", "0.0", 1)), "2,other findings of patient00007/study1"),
    ],
)
def test_a_bad_row_is_counted(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    report, _ = read(archive, max_bad_fraction=0.5)
    assert report.skipped == 1
    assert reason in skipped(archive)


def test_a_png_is_read_before_its_dicom(archive: Path) -> None:
    path = archive / "DICOM/train/patient00007/study1/view1_frontal.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another form of it")
    assert read(archive)[0].skipped == 0
