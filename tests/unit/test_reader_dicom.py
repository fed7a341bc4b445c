"""A tree of DICOM files becomes studies, and nothing of its patients but what is allowed leaves it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medsynth_core.corpus.dicom import pseudonym
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers.dicom import recognise
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform
from medsynth_core.workspace.tree import Config
from tests.dicoms import chest, compressed, directory, report, saved


def config(folder: Path, **corpus: object) -> Config:
    settings = {"kind": "dicom", "path": str(folder), "image_size": 32, "views": "all", "max_bad_fraction": 0.9}
    return parse_config({"corpus": {**settings, **corpus}}, "test")


def read(folder: Path, workspace: Path, **corpus: object) -> Corpus:
    perform("corpus", config(folder, **corpus), workspace, silent)
    return Corpus.open(workspace / "data" / "corpus")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three studies of two patients: two films and a report, a film in another syntax, a film of a CR."""
    folder = tmp_path / "Ärzte und Bilder"
    (folder / "A" / "B").mkdir(parents=True)
    both = {"StudyInstanceUID": "1.2.1", "PatientID": "007", "PatientSex": "F", "PatientAge": "061Y"}
    saved(folder / "A" / "B" / "IM000001", chest(0, ViewPosition="PA", Manufacturer="Agfa", **both))
    saved(folder / "A" / "IM2", chest(1, ViewPosition="LL", ImagerPixelSpacing=[0.143, 0.143], **both))
    said = report(("History", "Cough."), ("Findings", "Left effusion."), ("Impression", "Effusion."))
    said.StudyInstanceUID, said.PatientID = "1.2.1", "007"
    saved(folder / "report.dcm", said)
    other = {"StudyInstanceUID": "1.2.2", "PatientID": "7", "EthnicGroup": "Asian"}
    lying = chest(2, ViewPosition="AP", SeriesDescription="supine", **other)
    compressed(folder / "A" / "x.dcm", lying, "JPEG2000Lossless")
    (folder / "A" / "x.dcm-plain").unlink()
    saved(folder / "z.jpg", chest(3, Modality="CR", StudyInstanceUID="1.2.3", PatientID="7", PatientSex="M"))
    (folder / "README").write_text("hello")
    (folder / ".hidden").write_bytes(b"")
    return folder


def test_a_tree_of_studies(tree: Path, tmp_path: Path) -> None:
    corpus = read(tree, tmp_path / "w")
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    first, second, third = (studies[pseudonym(each)] for each in ("1.2.1", "1.2.2", "1.2.3"))
    assert len(studies) == 3
    assert (first["findings"], first["impression"]) == ("Left effusion.", "Effusion.")
    assert [(each["sex"], each["age"], each["race"]) for each in (first, second, third)] == [
        ("F", 61, None), (None, None, "Asian"), ("M", None, None),
    ]  # fmt: skip
    assert first["patient_id"] == pseudonym("007")
    assert second["patient_id"] == third["patient_id"] == pseudonym("7")
    views = corpus.views().to_pylist()
    facts = {(each["study_id"], each["projection"], each["manufacturer"]) for each in views}
    assert facts == {
        (first["study_id"], "PA", "Agfa"),
        (first["study_id"], "lateral", None),
        (second["study_id"], "AP supine", None),
        (third["study_id"], "unknown", None),
    }
    assert sorted(round(each["pixel_spacing_mm"] or 0, 3) for each in views) == [0, 0, 0, 0.143]
    assert all(each["view_id"] == each["source"] and len(each["source"]) == 16 for each in views)


def test_the_same_tree_elsewhere_is_the_same_corpus(tree: Path, tmp_path: Path) -> None:
    first = read(tree, tmp_path / "v").studies()
    moved = tmp_path / "moved"
    tree.rename(moved)
    assert read(moved, tmp_path / "w").studies() == first


def test_films_of_a_tree_are_shown_right(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    saved(tmp_path / "t" / "1", chest(0))
    image = read(tmp_path / "t", tmp_path / "w").images(np.array([0]))[0].astype(float)
    pixels = phantom_study(0, 0, 64).views[0].load().astype(float)
    halves = pixels.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(image.ravel(), halves.ravel())[0, 1] > 0.99


def test_max_studies(tree: Path, tmp_path: Path) -> None:
    assert read(tree, tmp_path / "w", max_studies=2).n_studies() == 2


def test_recognised(tree: Path, tmp_path: Path) -> None:
    what = recognise(tree)
    assert what is not None
    assert what.settings == {"kind": "dicom", "path": str(tree)}
    assert what.found[0] == "4 of the first 6 files are radiographs"
    (tmp_path / "none").mkdir()
    assert recognise(tmp_path / "none") is None
    assert recognise(tree / "README") is None
    assert recognise(tmp_path / "gone") is None


def test_a_dicomdir_is_read_alone(tree: Path, tmp_path: Path) -> None:
    saved(tree / "DICOMDIR", directory(["A", "B", "IM000001"], ["A", "IM2"], ["A", "GONE"]))
    corpus = read(tree / "DICOMDIR", tmp_path / "w")
    assert (corpus.n_studies(), corpus.views().num_rows) == (1, 2)
    assert "the file isn't there" in (tmp_path / "w" / "data" / "corpus" / "skipped.csv").read_text()
    assert read(tree, tmp_path / "v").n_studies() == 3, "beside its files it is none of them"
    assert recognise(tree / "DICOMDIR") is not None


def write_reports(path: Path, **columns: list[str]) -> dict[str, object]:
    pd.DataFrame(columns).to_csv(path, index=False)
    return {"reports": str(path)}


def test_reports_of_a_table(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_reports(
        tmp_path / "reports.csv",
        uid=["1.2.3", "1.2.1", "9.9.9"],
        text=["FINDINGS: Clear.", "FINDINGS: Effusion.\nIMPRESSION: Wet.", "Gone."],
        labels=["", "Effusion;Mass", ""],
        split=["test", "train", ""],
    )
    columns = {"study": "uid", "findings": "labels", "split": "split", "origin": "radiologist"}
    corpus = read(tree, tmp_path / "w", columns=columns, **table)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    assert studies[pseudonym("1.2.1")]["impression"] == "Wet."
    assert studies[pseudonym("1.2.3")]["split"] == "test"
    assert studies[pseudonym("1.2.2")]["findings"] == ""
    given = pq.read_table(tmp_path / "w" / "data" / "corpus" / "given.parquet").to_pylist()
    assert [(each["name"], each["origin"]) for each in given] == [("Effusion", "radiologist"), ("Mass", "radiologist")]
    assert "1 of 3 studies have no row in it, 1 of its 3 studies have no film" in caplog.text


@pytest.mark.parametrize(
    ("columns", "settings", "reason"),
    [
        ({"uid": ["1.2.1"], "text": ["Clear."]}, {}, "set corpus.columns.study"),
        ({"uid": ["1.2.1"], "text": ["Clear."]}, {"study": "study"}, "no column 'study'; did you mean"),
        ({"uid": ["A17", "A18"], "text": ["Clear."] * 2}, {"study": "uid"}, "none of the 3 Study Instance UIDs"),
        ({"uid": ["1.2.1"], "text": ["x"]}, {"study": "uid", "text": None}, "set corpus.columns.text"),
        ({"uid": ["1.2.1", "1.2.2"], "text": ["1", "2"]}, {"study": "uid"}, "holds numbers, not reports"),
    ],
)
def test_a_wrong_table_of_reports(
    tree: Path, tmp_path: Path, columns: dict[str, list[str]], settings: dict[str, Any], reason: str
) -> None:
    table = write_reports(tmp_path / "reports.csv", **columns)
    with pytest.raises(InputError, match=reason) as caught:
        read(tree, tmp_path / "w", columns=settings, **table)
    assert "reports.csv" in str(caught.value)


def test_a_study_with_two_reports_is_a_bad_row(tree: Path, tmp_path: Path) -> None:
    table = write_reports(tmp_path / "r.csv", uid=["1.2.1", "1.2.1", "1.2.2"], text=["Clear.", "Wet.", "Clear."])
    read(tree, tmp_path / "w", columns={"study": "uid"}, **table)
    skipped = pd.read_csv(tmp_path / "w" / "data" / "corpus" / "skipped.csv")
    assert skipped["reason"].tolist() == ["its rows 2, 3 of corpus.reports differ"]


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(**fields: Any) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        file = pydicom.dcmread(path)
        for name, value in fields.items():
            setattr(file, name, value)
        file.save_as(path)

    return rewrite


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "gone")


def copied(path: Path) -> None:
    (path.parent / "zz copy").write_bytes(path.read_bytes())


def cut_to(size: int) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:size])

    return cut


def made_a_png(path: Path) -> None:
    path.rename(path.with_suffix(".dcm")).write_bytes(b"\x89PNG" + bytes(200))


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (cut_to(0), "the file is empty"),
    (made_a_png, "not DICOM, by how"),
    (cut_in_half, "can't be decoded"),
    (cut_to(300), r"cut off\?"),
    (linked_to_nothing, "a link to a file that isn't there"),
    (copied, "image is there twice"),
    (rewritten(StudyInstanceUID=""), "without a Study Instance UID"),
    (rewritten(PatientID="8", StudyInstanceUID="1.2.9"), "of another patient than file 1"),
    (rewritten(BurnedInAnnotation="YES"), "names the patient"),
    (rewritten(NumberOfFrames=3), "3 frames"),
    (rewritten(PixelData=bytes(64 * 64 * 2)), "flat"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[reason for _, reason in DAMAGES])
def test_a_damaged_file_is_one_bad_row(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for index in range(3):
        saved(folder / str(index), chest(index, StudyInstanceUID="1.2.9" if index == 0 else f"1.2.{index}"))
    damage(folder / "1")
    read(folder, tmp_path / "w")
    skipped = pd.read_csv(tmp_path / "w" / "data" / "corpus" / "skipped.csv")
    assert len(skipped) == 1
    assert pd.Series.str.contains(skipped["reason"].str, reason).all(), skipped["reason"].tolist()
    with pytest.raises(InputError, match=reason) as caught:
        read(folder, tmp_path / "v", max_bad_fraction=0.0)
    assert str(folder) in str(caught.value), "the error that stops the run names the file"
    assert "\n" not in str(caught.value)


def test_what_is_no_film_is_left_out_and_told(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tree / "ct", chest(5, Modality="CT"))
    saved(tree / "knee", chest(6, BodyPartExamined="KNEE"))
    saved(tree / "own", chest(7, Modality="DOEJOHN"))
    with caplog.at_level(logging.WARNING):
        assert read(tree, tmp_path / "w").n_studies() == 3
    assert "4 of 9 files are left out" in caplog.text
    for what in ("1 no DICOM", "1 of modality CT", "1 of another part of the body", "1 of another modality"):
        assert what in caplog.text
    assert "DOE" not in caplog.text


@pytest.mark.parametrize("place", ["gone", "empty", "table.csv"])
def test_nothing_to_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("text\nClear.\n")
    with pytest.raises(InputError, match=rf"{place}: (corpus.path is|none of 0 files)"):
        read(tmp_path / place, tmp_path / "w")


def test_one_patient_id_for_all_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t").mkdir()
    for index in range(20):
        saved(tmp_path / "t" / str(index), chest(0, StudyInstanceUID=f"1.{index}", PatientID="ANON"))
    read(tmp_path / "t", tmp_path / "w")
    assert "all 20 studies have one Patient ID" in caplog.text
    assert "ANON" not in caplog.text


CANARY = "QUOKKA"
DATE = "19451107"
NUMBER = "8712364"


def identified(file: Dataset, study: str) -> Dataset:
    """A file that says in every place, also where it mustn't, whom and when it shows."""
    file.StudyInstanceUID, file.PatientID = f"{study}.{NUMBER}", f"{CANARY}-{NUMBER}"
    file.SOPInstanceUID = f"{generate_uid()[:40]}.{NUMBER}"
    file.PresentationIntentType = file.PatientPosition = CANARY
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    for name in ("PatientName", "ReferringPhysicianName", "OperatorsName", "InstitutionName", "StationName",
                 "StudyDescription", "SeriesDescription", "ProtocolName", "PatientComments", "ImageComments",
                 "DeviceSerialNumber", "StudyID", "InstitutionAddress", "OtherPatientNames"):  # fmt: skip
        setattr(file, name, CANARY)
    for name in ("StudyDate", "PatientBirthDate", "AcquisitionDate", "ContentDate"):
        setattr(file, name, DATE)
    file.AccessionNumber = NUMBER
    file.ViewPosition, file.BodyPartExamined = CANARY, CANARY
    private = file.private_block(0x0099, CANARY, create=True)
    private.add_new(0x01, "PN", CANARY)
    private.add_new(0x02, "UN", f"{CANARY}{NUMBER}".encode())
    return file


@pytest.fixture
def identified_tree(tmp_path: Path) -> Path:
    """Films and a report whose files and folders are called after the patient, most of them damaged in some way."""
    folder = tmp_path / "films"
    inner = folder / f"{CANARY} {DATE}"
    inner.mkdir(parents=True)
    for index in range(8):
        saved(inner / f"{CANARY}_{NUMBER}_{index}.dcm", identified(chest(index), f"1.2.{index}"))
    said = identified(report(("Findings", "Left effusion."), ("Patient", f"Name: {CANARY}")), "1.2.0")
    saved(inner / f"{CANARY} report", said)
    cut_in_half(inner / f"{CANARY}_{NUMBER}_1.dcm")
    (inner / f"{CANARY}_{NUMBER}_2.dcm").write_bytes(f"{CANARY} not DICOM".encode())
    (inner / f"{CANARY}_{NUMBER}_3.dcm").write_bytes(b"")
    rewritten(NumberOfFrames=2)(inner / f"{CANARY}_{NUMBER}_4.dcm")
    rewritten(Modality=CANARY)(inner / f"{CANARY}_{NUMBER}_5.dcm")
    path = inner / f"{CANARY}_{NUMBER}_6.dcm"
    path.write_bytes(path.read_bytes().replace(b"DS", b"Q?", 1))
    rewritten(PhotometricInterpretation=f"{CANARY}")(inner / f"{CANARY}_{NUMBER}_7.dcm")
    (inner / f"{CANARY} link.dcm").symlink_to(inner / f"{CANARY} gone")
    (inner / f"{CANARY}.txt").write_text(CANARY)
    broken = identified(chest(9), "1.2.9")
    with pydicom.config.disable_value_validation():
        broken.add_new("PatientAge", "LO", CANARY)
        broken.add_new("ImagerPixelSpacing", "LO", [CANARY, CANARY])
        broken.add_new("PatientSex", "LO", CANARY)
        broken.add_new("PixelPaddingValue", "LO", CANARY)
        broken.add_new("WindowCenter", "LO", CANARY)
        broken.add_new("Modality", "CS", "dx")
        broken.add_new("EthnicGroup", "SH", "x" * 20)
        broken.SeriesInstanceUID = broken.SOPClassUID = broken.PatientID = f"{CANARY} é"
        saved(inner / f"{CANARY}_9", broken)
    return folder


def written(workspace: Path) -> list[tuple[str, bytes]]:
    """Names and contents of all files below a folder; Parquet in plain text, too."""
    contents = []
    for path in workspace.rglob("*"):
        name = str(path.relative_to(workspace))
        data = path.read_bytes() if path.is_file() else b""
        contents.append((name, data))
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            contents.append((name, repr((table.to_pylist(), table.schema.metadata)).encode()))
    return contents


def test_nothing_of_a_patient_leaves_the_files(
    identified_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    workspace = tmp_path / "w"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for name in ("TMPDIR", "JOBLIB_TEMP_FOLDER"):
        monkeypatch.setenv(name, str(temporary))
    with caplog.at_level(logging.DEBUG):
        corpus = read(identified_tree, workspace)
        with pytest.raises(InputError, match=CANARY):
            perform("corpus", config(identified_tree, max_bad_fraction=0.0), workspace, silent)
    assert corpus.n_studies() >= 2
    assert corpus.studies()["findings"].to_pylist().count("Left effusion.") == 1
    assert len(pd.read_csv(workspace / "data" / "corpus" / "skipped.csv")) >= 5
    said = "".join(capfd.readouterr()) + caplog.text + "".join(str(each.message) for each in recwarn)
    everything = [*written(workspace), *written(temporary), ("logs", said.encode())]
    for secret in (CANARY, DATE, NUMBER, "1.2.0."):
        leaks = [name for name, data in everything if secret.encode() in data or secret in name]
        assert not leaks, f"{secret} is in {leaks}"


def test_every_secret_is_in_the_tree(identified_tree: Path) -> None:
    """So that the test above looks for what is there."""
    data = b"".join(path.read_bytes() for path in identified_tree.rglob("*") if path.is_file())
    assert all(secret.encode() in data for secret in (CANARY, DATE, NUMBER, "1.2.0."))
    assert any(CANARY in name for _, _, names in os.walk(identified_tree) for name in names)
