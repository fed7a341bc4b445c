import gzip
import logging
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers import mimic_cxr
from medsynth_core.corpus.readers.chexpert import LABELS
from medsynth_core.errors import InputError
from tests.archives import read_archive, skipped

FILMS = [
    # dicom id, patient, study, ViewPosition, ViewCodeSequence_CodeMeaning, orientation, StudyDate
    ("02aa804e-bde0afdd", "10000032", "50414267", "PA", "postero-anterior", "Erect", "21800506"),
    ("174413ec-4ec4c1f7", "10000032", "50414267", "LATERAL", "lateral", "Erect", "21800506"),
    ("2a2277a9-b0ded155", "10000032", "53189527", "AP", "antero-posterior", "Recumbent", "21810626"),
    ("68b5c4b1-227d0485", "11000011", "51029426", "", "antero-posterior", "", "21670601"),
    ("fffabebf-74fd3a1f", "12000022", "52222222", "PA", "postero-anterior", "Erect", "21700101"),
]
SPLITS = {"10000032": "train", "11000011": "validate", "12000022": "test"}
STUDIES = {study: patient for _, patient, study, *_ in FILMS}
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 FINDINGS:

 There is no focal consolidation of film {study}.

 IMPRESSION:

 No acute process.
"""


@lru_cache
def pixels(index: int) -> np.ndarray:
    return np.asarray(phantom_study(0, index, 64).views[0].load())


def place(patient: str, study: str) -> str:
    return f"files/p{patient[:2]}/p{patient}/s{study}"


def metadata() -> pd.DataFrame:
    names = ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
             "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
             "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning")  # fmt: skip
    rows = [
        (film, patient, study, "CHEST (PA AND LAT)", view, 64, 64, date, "213014.531", "CHEST (PA AND LAT)", code, lies)
        for film, patient, study, view, code, lies, date in FILMS
    ]
    return pd.DataFrame(rows, columns=list(names))


def findings(**said: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"subject_id": patient, "study_id": study} | {name: said.get(f"s{study}", {}).get(name) for name in LABELS}
        for study, patient in STUDIES.items()
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(LABELS, float))


def write_films(folder: Path) -> None:
    for index, (film, patient, study, *_) in enumerate(FILMS):
        path = folder / place(patient, study) / f"{film}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(index)).save(path)


def write_reports(folder: Path) -> None:
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as stream:
        for study, patient in STUDIES.items():
            stream.writestr(f"{place(patient, study)}.txt", REPORT.format(study=study))


def write_split(folder: Path) -> None:
    rows = [(film, study, patient, SPLITS[patient]) for film, patient, study, *_ in FILMS]
    split = pd.DataFrame(rows, columns=["dicom_id", "study_id", "subject_id", "split"])
    split.to_csv(folder / "mimic-cxr-2.0.0-split.csv.gz", index=False)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """MIMIC-CXR-JPG as wget leaves it, with the reports, and MIMIC-IV beside it."""
    folder = tmp_path / "physionet über all" / "mimic-cxr-jpg" / "2.1.0"
    write_films(folder)
    write_reports(folder)
    write_split(folder)
    metadata().to_csv(folder / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    chexpert = findings(s50414267={"Edema": -1, "Pneumonia": 0}, s53189527={"Edema": 1}, s51029426={"No Finding": 1})
    chexpert.to_csv(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    findings(s50414267={"Edema": 1}).to_csv(folder / "mimic-cxr-2.0.0-negbio.csv.gz", index=False)
    by_hand = pd.DataFrame({"study_id": ["52222222"], "Airspace Opacity": [1.0], "Edema": [None]})
    by_hand.to_csv(folder / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)
    people = pd.DataFrame(
        {
            "subject_id": ["10000032", "11000011"],
            "gender": ["F", "M"],
            "anchor_age": [52, 30],
            "anchor_year": [2180, 2170],
            "anchor_year_group": ["2014 - 2016"] * 2,
            "dod": ["2180-09-09", ""],
        }
    )
    hosp = folder.parent.parent / "mimiciv" / "2.2" / "hosp"
    hosp.mkdir(parents=True)
    people.to_csv(hosp / "patients.csv.gz", index=False)
    return folder


read = partial(read_archive, "mimic-cxr")


def test_reports_films_labels_and_people(archive: Path) -> None:
    report, corpus = read(archive)
    assert (sum(report.studies.values()), sum(report.views.values()), report.skipped) == (4, 5, 0)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    people = {name: (row["patient_id"], row["sex"], row["age"], row["n_views"]) for name, row in studies.items()}
    assert people == {
        "s50414267": ("p10000032", "F", 52, 2),
        "s53189527": ("p10000032", "F", 53, 1),
        "s51029426": ("p11000011", "M", 27, 1),
        "s52222222": ("p12000022", None, None, 1),
    }
    first = studies["s50414267"]
    assert first["findings"] == "There is no focal consolidation of film 50414267."
    assert first["impression"] == "No acute process."
    assert "ascites" in str(corpus.left_out(["s50414267"]))
    assert (studies["s51029426"]["split"], studies["s52222222"]["split"]) == ("val", "test")
    assert first["split"] == studies["s53189527"]["split"]
    assert first["split"] != "test"
    given = corpus.given(list(studies))
    assert {(each.name, each.status, each.origin) for each in given["s50414267"]} == {
        ("Edema", "uncertain", "CheXpert labeller"),
        ("Pneumonia", "absent", "CheXpert labeller"),
        ("Edema", "present", "NegBio labeller"),
    }
    assert [(each.name, each.status) for each in given["s51029426"]] == [("no finding", "present")]
    assert [(each.name, each.origin) for each in given["s52222222"]] == [("Airspace Opacity", "radiologist")]
    views = {row["view_id"].rpartition("/")[2]: row["projection"] for row in corpus.views().to_pylist()}
    assert list(views.values()) == ["PA", "lateral", "AP supine", "AP", "PA"]
    assert "02aa804e-bde0afdd.jpg" in views


def test_a_part_of_the_films(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    for study in ("50414267", "53189527"):
        for path in (archive / place("10000032", study)).iterdir():
            path.unlink()
    with caplog.at_level(logging.WARNING):
        report, corpus = read(archive, max_studies=3)
    assert "3 of 5 films aren't on disk and are left out" in caplog.text
    assert (sum(report.views.values()), report.skipped) == (2, 0)
    names = corpus.studies().column("study_id").to_pylist()
    assert names == ["s51029426", "s52222222", "s50414267"], (
        "those with films come first, the others have their reports"
    )


def test_reports_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    for study, patient in STUDIES.items():
        path = folder / f"{place(patient, study)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(REPORT.format(study=study))
    report, corpus = read(folder)
    assert (sum(report.studies.values()), sum(report.views.values())) == (4, 0)
    assert set(corpus.studies().column("patient_id").to_pylist()) == {"p10000032", "p11000011", "p12000022"}


def sectioned(folder: Path, studies: list[str]) -> None:
    rows = [("s50414267", "No acute process.", "Clear.", "No acute process.", "None."),
            ("s51029426", "", "", "Left effusion.", ""),
            ("s52222222", "Normal.", "", "Normal.", "")]  # fmt: skip
    columns = ["study", "impression", "findings", "last_paragraph", "comparison"]
    table = pd.DataFrame([row for row in rows if row[0] in studies], columns=columns)
    table.to_csv(folder / "mimic_cxr_sectioned.csv.gz", index=False)


def test_parted_reports_know_their_patients_by_other_tables(tmp_path: Path) -> None:
    sectioned(tmp_path, ["s50414267", "s51029426", "s52222222"])
    with pytest.raises(InputError, match=r"whose its studies are isn't known; put mimic-cxr-2\.0\.0-split"):
        read(tmp_path)
    write_split(tmp_path)
    report, corpus = read(tmp_path)
    assert (sum(report.studies.values()), report.skipped) == (3, 0)
    rows = {row["study_id"]: (row["findings"], row["impression"]) for row in corpus.studies().to_pylist()}
    assert rows == {
        "s50414267": ("Clear.", "No acute process."),
        "s51029426": ("Left effusion.", ""),
        "s52222222": ("", "Normal."),
    }


def test_dicom_without_metadata_says_how_it_was_taken(tmp_path: Path) -> None:
    folder = tmp_path / "mimic-cxr"
    for index, (film, patient, study, view, *_) in enumerate(FILMS):
        path = folder / place(patient, study) / f"{film}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, pixels(index), view)
    write_reports(folder)
    report, corpus = read(folder)
    assert (sum(report.views.values()), report.skipped) == (5, 0)
    views = corpus.views().to_pylist()
    assert [row["projection"] for row in views] == ["PA", "lateral", "AP", "unknown", "PA"]
    assert {row["manufacturer"] for row in views} == {"Carestream Health"}
    assert views[0]["pixel_spacing_mm"] == pytest.approx(0.139)


def write_dicom(path: Path, values: np.ndarray, view: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = pydicom.Dataset()
    file.file_meta = meta
    file.Modality, file.ViewPosition, file.Manufacturer = "DX", view, "Carestream Health"
    file.ImagerPixelSpacing = ["0.139", "0.139"]
    file.PhotometricInterpretation, file.SamplesPerPixel, file.PixelRepresentation = "MONOCHROME2", 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.Rows, file.Columns = values.shape
    file.PixelData = (np.clip(values, 0, 255) * 16).astype("<u2").tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)


def test_films_in_another_folder_and_labels_without_reports(archive: Path) -> None:
    (archive / "mimic-cxr-reports.zip").unlink()
    (archive / "files").rename(archive.parent / "resized")
    report, _ = read(archive, images=str(archive.parent / "resized"))
    assert (sum(report.studies.values()), sum(report.views.values()), report.skipped) == (4, 5, 0)


def test_ids_that_a_program_took_for_numbers(archive: Path) -> None:
    rows = metadata().astype({"study_id": float, "subject_id": float, "StudyDate": float})
    rows.to_csv(archive / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    report, corpus = read(archive)
    assert report.skipped == 0
    assert corpus.studies().column("age").to_pylist() == [52, 53, 27, None]


def test_it_is_recognised(archive: Path) -> None:
    seen = mimic_cxr.recognise(archive)
    assert seen is not None
    assert seen.settings == {"kind": "mimic-cxr", "path": str(archive)}
    assert "mimic-cxr-2.0.0-split.csv.gz: 5 rows, 1 test, 3 train, 1 validate" in seen.found
    assert "reports: mimic-cxr-reports.zip" in seen.found
    assert "films: 5 in the folders that were looked into (jpg)" in seen.found
    assert not seen.missing
    alone = mimic_cxr.recognise(archive / "files")
    assert alone is not None
    assert "no chexpert table" in alone.missing
    assert mimic_cxr.recognise(archive.parent.parent / "mimiciv") is None


def change(name: str, **columns: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"mimic-cxr-2.0.0-{name}.csv.gz"
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column, made in columns.items():
            rows[column] = made(rows[column].tolist())
        rows.to_csv(path, index=False)

    return damage


def rename(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"mimic-cxr-2.0.0-{name}.csv.gz"
        pd.read_csv(path, dtype=str).rename(columns={old: new}).to_csv(path, index=False)

    return damage


def halve(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def leave(*suffixes: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(suffixes)]:
            path.unlink()

    return damage


def twice(folder: Path) -> None:
    for version in ("a", "b"):
        (folder / version).mkdir()
        (folder / version / "mimic-cxr-2.0.0-split.csv").write_text("")
    (folder / "mimic-cxr-2.0.0-split.csv.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (leave(".csv.gz"), r"no film \(files/p10.*and no report"),
        (leave(".jpg"), "films of which nothing is said; put mimic-cxr-reports.zip"),
        (rename("metadata", "ViewPosition", "View"), "no column 'ViewPosition'"),
        (rename("chexpert", "Edema", "Oedema"), "no column 'Edema'; did you mean 'Oedema'"),
        (halve("mimic-cxr-2.0.0-chexpert.csv.gz"), r"chexpert\.csv\.gz: cut off or damaged"),
        (halve("mimic-cxr-reports.zip"), r"mimic-cxr-reports\.zip: cut off or damaged"),
        (twice, r"both a/mimic-cxr-2\.0\.0-split\.csv and b/"),
        (change("metadata", dicom_id=lambda cells: [f"{n:08}" for n in range(len(cells))]),
         "none of 5 dicom ids is in .*'00000000' here, '02aa804e-bde0afdd' there"),
        (change("split", subject_id=lambda cells: [cell[1:] for cell in cells]), "none of 3 patients .*'0000032' here"),
        (change("chexpert", study_id=lambda cells: [cell[:-1] for cell in cells]), "none of 4 studies .*'5041426'"),
    ],
)  # fmt: skip
def test_what_stops_it(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    with pytest.raises(InputError, match=reason):
        read(archive)


def film(act: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: act(folder / place("10000032", "50414267") / "02aa804e-bde0afdd.jpg") and None


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.jpg")


def another_patients(folder: Path) -> None:
    path = folder / place("19999999", "50414267") / "aaaa.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


def report_of(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / f"{place('12000022', '52222222')}.txt").write_text(text)
        (folder / "mimic-cxr-2.1.0-test-set-labeled.csv").unlink()

    return damage


def break_a_report(folder: Path) -> None:
    path = folder / "mimic-cxr-reports.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 10 : len(data) // 10 + 30] = bytes(30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (film(lambda path: path.write_bytes(b"")), "the file is empty"),
        (film(dangle), "a link to gone.jpg"),
        (another_patients, "study 50414267 is patient 10000032's, too"),
        (report_of(""), "the report is empty"),
        (report_of("INDICATION: Cough."), "no report but what was asked, and no findings are given"),
        (break_a_report, "report that can't be read"),
        (change("metadata", dicom_id=lambda cells: [cells[1], *cells[1:]]), '3,"dicom_id 174413ec-4ec4c1f7 again'),
        (change("metadata", study_id=lambda cells: ["53189527", *cells[1:]]), "but in the folder of study 50414267"),
        (change("split", split=lambda cells: [*cells[:2], "test", *cells[3:]]), '4,"another split than row 2'),
        (
            change("split", split=lambda cells: [*cells[:4], "?"]),
            "patient '12000022' in split '?'; train, validate or test",
        ),
        (change("chexpert", Edema=lambda cells: ["5", *cells[1:]]), "2,\"'5' for 'Edema'"),
        (change("negbio", study_id=lambda cells: [cells[0], *cells[:1], *cells[2:]]), '3,"study_id 50414267 again'),
        (change("chexpert", study_id=lambda cells: ["", *cells[1:]]), "2,study_id '' is no id"),
    ],
)
def test_a_bad_row_is_counted(archive: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(archive)
    report, _ = read(archive, max_bad_fraction=0.5)
    assert report.skipped == 1
    assert reason in skipped(archive)


def test_a_wrong_extension_is_read_by_its_content(archive: Path) -> None:
    film(lambda path: write_dicom(path, pixels(0), "PA"))(archive)
    assert read(archive)[0].skipped == 0


def test_people_of_others_are_told_of(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = pd.DataFrame({"subject_id": ["99"], "gender": ["F"], "anchor_age": ["5"], "anchor_year": ["2180"]})
    (archive / "patients.csv.gz").write_bytes(gzip.compress(rows.to_csv(index=False).encode()))
    with caplog.at_level(logging.WARNING):
        _, corpus = read(archive)
    assert "none of 1 patients is in" in caplog.text
    assert corpus.studies().column("sex").null_count == 4
