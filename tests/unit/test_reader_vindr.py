import csv
import gzip
import logging
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers.vindr import recognise
from medsynth_core.corpus.stage import CorpusReport
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
CONTEST = frozenset(
    ("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
     "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
     "Pulmonary fibrosis")
)  # fmt: skip
SICK, WELL, TEST = (
    "000434271f63a053c4128a0ba6352c7f",
    "00053190460d56c53cc3e57321387478",
    "002a34c58c5b758217ed1f584ccbcfe9",
)
BOX = ("100", "200", "300", "400")
NONE = ("", "", "", "")
SIDE = 64


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def labels(*present: str) -> list[str]:
    return ["1" if label in present else "0" for label in LABELS]


def save_dicom(path: Path, pixels: np.ndarray, **fields: object) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Modality, file.PhotometricInterpretation = "CR", "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.asarray(phantom_study(0, 0, SIDE).views[0].load()).astype(np.uint8)


@pytest.fixture
def physionet(tmp_path: Path, pixels: np.ndarray) -> Path:
    """Two training films, of three radiologists each, and a test film, in PhysioNet's folders."""
    folder = tmp_path / "VinDr – ảnh"
    train = [
        [SICK, "R8", *labels("Cardiomegaly", "Pleural effusion")],
        [SICK, "R9", *labels("Cardiomegaly")],
        [SICK, "R10", *labels("No finding")],
        *([WELL, reader, *labels("No finding")] for reader in ("R1", "R2", "R3")),
    ]
    notes = folder / "annotations"
    write(notes / "image_labels_train.csv", ["image_id", "rad_id", *LABELS], train)
    named = ["Other disease" if label == "Other diseases" else label for label in LABELS]
    write(notes / "image_labels_test.csv", ["image_id", *named], [[TEST, *labels("Other diseases")]])
    boxes = ["class_name", "x_min", "y_min", "x_max", "y_max"]
    write(
        notes / "annotations_train.csv",
        ["image_id", "rad_id", *boxes],
        [[SICK, "R8", "Cardiomegaly", "16", "32", "48", "64"], [WELL, "R1", "No finding", *NONE]],
    )
    write(notes / "annotations_test.csv", ["image_id", *boxes], [[TEST, "Other disease", "0", "0", "32.0", "16.0"]])
    facts = {"PatientSex": "F", "PatientAge": "061Y", "Manufacturer": "Made here", "PixelSpacing": [0.139, 0.139]}
    save_dicom(folder / "train" / f"{SICK}.dicom", pixels, **facts)
    save_dicom(folder / "train" / f"{WELL}.dicom", pixels, PatientSex="O", PatientAge="000Y")
    save_dicom(folder / "test" / f"{TEST}.dicom", pixels)
    return folder


@pytest.fixture
def kaggle(tmp_path: Path, pixels: np.ndarray) -> Path:
    """Two films of the contest, as PNG of 64 pixels that were made of DICOMs of 640 x 1280."""
    folder = tmp_path / "vinbigdata"
    header = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    rows = [
        [SICK, "Cardiomegaly", "3", "R8", *BOX],
        [SICK, "Cardiomegaly", "3", "R9", *BOX],
        [SICK, "Pleural effusion", "10", "R9", *BOX],
        [SICK, "No finding", "14", "R10", *NONE],
        *([WELL, "No finding", "14", reader, *NONE] for reader in ("R1", "R2", "R3")),
    ]
    write(folder / "train.csv", header, rows)
    write(folder / "train_meta.csv", ["image_id", "dim0", "dim1"], [[SICK, "1280", "640"], [WELL, "1280", "640"]])
    (folder / "train").mkdir()
    for name in (SICK, WELL):
        Image.fromarray(pixels).save(folder / "train" / f"{name}.png")
    return folder


def read(archive: Path, **corpus: object) -> tuple[CorpusReport, Corpus]:
    settings = {"kind": "vindr", "path": str(archive), "image_size": 32, "max_bad_fraction": 0.5, **corpus}
    work = archive.parent / "work"
    report = perform("corpus", parse_config({"corpus": settings}, "test"), work, silent)
    return report, Corpus.open(work / "data" / "corpus")


def skipped(archive: Path) -> str:
    return (archive.parent / "work" / "data" / "corpus" / "skipped.csv").read_text("utf-8")


def statuses(corpus: Corpus, image: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"present": set(), "uncertain": set(), "absent": set()}
    studies = {row["study_id"]: row for batch in corpus.study_batches(2) for row in batch}
    for each in studies[f"vindr-{image}"]["given"]:
        assert each.origin == "radiologist"
        found[each.status].add(each.name)
    return found


def test_two_of_three_radiologists_are_believed_and_one_is_uncertain(physionet: Path) -> None:
    report, corpus = read(physionet, val_fraction=0.0, judge_fraction=0.0)
    assert (report.studies, report.skipped) == ({"train": 2, "judge": 0, "val": 0, "test": 1}, 0)
    assert report.views == report.studies
    sick, well, test = (statuses(corpus, image) for image in (SICK, WELL, TEST))
    assert (sick["present"], sick["uncertain"]) == ({"Cardiomegaly"}, {"Pleural effusion"})
    assert len(sick["absent"]) == 25, "of the 28 columns, one isn't a finding"
    assert (well["present"], well["uncertain"], len(well["absent"])) == ({"no finding"}, set(), 27)
    assert test["present"] == {"Other diseases"}, "the test table's name for it is the training table's"


def test_sex_age_manufacturer_and_spacing_are_the_dicoms(physionet: Path) -> None:
    _, corpus = read(physionet)
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    assert [(studies[f"vindr-{i}"]["sex"], studies[f"vindr-{i}"]["age"]) for i in (SICK, WELL, TEST)] == [
        ("F", 61),
        (None, None),
        (None, None),
    ], "0 years is what is left of an age that was taken out"
    assert all(row["patient_id"] == row["study_id"] for row in studies.values())
    views = {row["study_id"]: row for row in corpus.views().to_pylist()}
    sick = views[f"vindr-{SICK}"]
    assert (sick["projection"], sick["manufacturer"]) == ("PA", "Made here")
    assert sick["pixel_spacing_mm"] == pytest.approx(0.139)
    assert views[f"vindr-{TEST}"]["manufacturer"] is None


def test_boxes_are_in_pixels_of_the_dicom(physionet: Path) -> None:
    _, corpus = read(physionet)
    row = {view["study_id"]: view["row"] for view in corpus.views().to_pylist()}
    assert corpus.boxes().to_pylist() == [
        {"row": row[f"vindr-{SICK}"], "name": "Cardiomegaly", "origin": "radiologist"}
        | {"x0": 0.25, "y0": 0.5, "x1": 0.75, "y1": 1.0},
        {"row": row[f"vindr-{TEST}"], "name": "Other diseases", "origin": "radiologist"}
        | {"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.25},
    ]


def test_that_no_patients_are_named_is_said(physionet: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(physionet)
    assert "names no patients, so that each film counts as a patient of its own" in caplog.text


def test_kaggles_rows_of_boxes_are_votes(kaggle: Path) -> None:
    report, corpus = read(kaggle)
    assert (sum(report.studies.values()), report.skipped) == (2, 0)
    assert statuses(corpus, SICK) == {"present": {"Cardiomegaly"}, "uncertain": {"Pleural effusion"}, "absent": set()}
    assert statuses(corpus, WELL) == {
        "present": {"no finding"},
        "uncertain": set(),
        "absent": {"Cardiomegaly", "Pleural effusion"},
    }
    assert [view["view_id"] for view in corpus.views().to_pylist()] == [f"{SICK}.png", f"{WELL}.png"]


def test_boxes_are_scaled_with_films_that_were_made_of_dicoms(kaggle: Path) -> None:
    _, corpus = read(kaggle)
    box = corpus.boxes().to_pylist()[0]
    assert [box[edge] for edge in ("x0", "y0", "x1", "y1")] == pytest.approx(
        [100 / 640, 200 / 1280, 300 / 640, 400 / 1280]
    )


def test_boxes_of_an_unknown_scale_are_left_out(kaggle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (kaggle / "train_meta.csv").unlink()
    with caplog.at_level(logging.WARNING):
        report, _ = read(kaggle)
    assert report.boxes == 0
    assert "1 films with boxes were made of a DICOM whose size isn't known" in caplog.text


def test_the_size_may_be_in_the_table_itself(kaggle: Path) -> None:
    (kaggle / "train_meta.csv").unlink()
    lines = (kaggle / "train.csv").read_text().splitlines()
    text = "\n".join([f"{lines[0]},width,height", *(f"{line},640,1280" for line in lines[1:])])
    (kaggle / "train.csv").write_text(text)
    assert read(kaggle)[0].boxes == 3


def test_one_split_alone_is_read_and_said(physionet: Path, caplog: pytest.LogCaptureFixture) -> None:
    (physionet / "test" / f"{TEST}.dicom").unlink()
    with caplog.at_level(logging.WARNING):
        report, _ = read(physionet, max_bad_fraction=0.0)
    assert sum(report.studies.values()) == 2
    assert "image_labels_test.csv: none of its 1 films is there, so it isn't read" in caplog.text


def test_films_that_arent_downloaded_yet_are_counted_and_left_out(
    physionet: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (physionet / "train" / f"{WELL}.dicom").unlink()
    with caplog.at_level(logging.WARNING):
        report, _ = read(physionet, max_bad_fraction=0.0)
    assert sum(report.studies.values()) == 2
    assert "3 of 6 rows are left out, whose images aren't there" in caplog.text


@pytest.mark.parametrize(("n", "films"), [(1, 1), (3, 3), (9, 3)])
def test_as_many_studies_as_are_asked_for_are_read(physionet: Path, n: int, films: int) -> None:
    assert sum(read(physionet, max_studies=n)[0].studies.values()) == films


def test_films_may_be_elsewhere_and_tables_without_their_folder(physionet: Path, tmp_path: Path) -> None:
    for path in (physionet / "annotations").iterdir():
        (physionet / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in physionet.glob("*/*.dicom"):
        path.rename(flat / path.name)
    report, _ = read(physionet, images=str(flat))
    assert (sum(report.views.values()), report.boxes) == (3, 2)


def table(archive: Path, name: str = "image_labels_train.csv") -> Path:
    return archive / "annotations" / name


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def cut_gz(archive: Path) -> None:
    data = gzip.compress(table(archive).read_bytes() * 50)
    (archive / "annotations" / "image_labels_train.csv.gz").write_bytes(data[: len(data) // 2])
    table(archive).unlink()


def without_films(archive: Path) -> None:
    for path in archive.glob("*/*.dicom"):
        path.unlink()


def other_boxes(archive: Path) -> None:
    path = table(archive, "annotations_train.csv")
    path.write_text(path.read_text("utf-8").replace(SICK, "434271").replace(WELL, "53190460"), "utf-8")


def without_tables(archive: Path) -> None:
    for path in (archive / "annotations").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_tables, r"neither annotations/image_labels_train\.csv .* nor train\.csv"),
        (lambda a: change(table(a), "image_id", "image"), "no column 'image_id'; did you mean 'image'"),
        (lambda a: change(table(a, "annotations_train.csv"), "x_min", "x1"), "no column 'x_min'"),
        (cut_gz, r"image_labels_train\.csv\.gz: not a readable table \(Compressed file ended"),
        (other_boxes, r"annotations_train\.csv: none of 2 films is in image_labels_train\.csv"),
        (without_films, "none of the 6 images.*no image is there"),
    ],
)
def test_what_cant_be_read_at_all_is_one_clear_error(
    physionet: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(physionet)
    with pytest.raises(InputError, match=reason) as caught:
        read(physionet)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_folders_are_an_error(physionet: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.images is not a folder"):
        read(physionet, images=str(physionet / "nowhere"))
    with pytest.raises(InputError, match=r"corpus\.path is not a folder"):
        read(physionet / "nowhere")


def dangling(archive: Path) -> None:
    path = archive / "train" / f"{SICK}.dicom"
    path.unlink()
    path.symlink_to("gone.dicom")


def in_film(archive: Path, data: bytes) -> None:
    (archive / "train" / f"{SICK}.dicom").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason", "films"),
    [
        (lambda a: change(table(a), "R9", "R8"), "a second row of R8 for the same film", 3),
        (lambda a: change(table(a), f"{SICK},R8,0", f"{SICK},R8,yes"), "'yes' for 'Aortic enlargement'; 1 or 0", 3),
        (lambda a: change(table(a), f"{SICK},R9", ",R9"), "nothing in column 'image_id'", 3),
        (lambda a: change(table(a), f"{SICK},R8,0,", f"{SICK},R8,"), "29 cells where the header has 30", 3),
        (lambda a: change(table(a, "annotations_train.csv"), ",16,", ",48,"), "a box without an inside", 3),
        (lambda a: change(table(a, "annotations_train.csv"), ",16,", ",left,"), "not of four numbers", 3),
        (dangling, "a link to gone.dicom, which isn't there", 2),
        (lambda a: in_film(a, b""), "the file is empty", 2),
        (lambda a: in_film(a, b"\0" * 128 + b"DICM"), "DICOM", 2),
    ],
)
def test_a_bad_row_or_film_is_listed_and_the_others_are_read(
    physionet: Path, damage: Callable[[Path], object], reason: str, films: int
) -> None:
    damage(physionet)
    report, _ = read(physionet)
    assert (sum(report.views.values()), report.skipped) == (films, 1)
    assert reason in skipped(physionet)


def test_kaggles_row_without_a_radiologist_is_listed(kaggle: Path) -> None:
    change(kaggle / "train.csv", "R10", "")
    report, _ = read(kaggle)
    assert (sum(report.views.values()), report.skipped) == (2, 1)
    assert "nothing in column 'rad_id'" in skipped(kaggle)


def test_kaggles_published_table_is_read(tmp_path: Path, pixels: np.ndarray) -> None:
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision, which ships the table, isn't installed")
    folder = tmp_path / "vinbigdata"
    folder.mkdir()
    shutil.copy(Path(spec.origin).parent / "data" / "vinbigdata-train.csv.gz", folder / "train.csv.gz")
    save_dicom(folder / "train" / "9a5094b2563a1ef3ff50dc5c7ff71345.dicom", pixels)
    save_dicom(folder / "train" / f"{SICK}.dicom", pixels)
    report, corpus = read(folder)
    assert (sum(report.views.values()), report.skipped) == (2, 0)
    assert statuses(corpus, SICK)["present"] == {"no finding"}
    sick = statuses(corpus, "9a5094b2563a1ef3ff50dc5c7ff71345")
    assert sick["present"] == {"Cardiomegaly"}, "three say so"
    assert sick["uncertain"] == {"Aortic enlargement", "Pleural effusion", "Pleural thickening"}, "one of them says so"
    assert sick["present"] | sick["uncertain"] | sick["absent"] == CONTEST


def test_they_are_recognised(physionet: Path, kaggle: Path) -> None:
    known = recognise(physionet)
    assert known is not None
    assert known.settings == {"kind": "vindr", "path": str(physionet)}
    assert known.found[:2] == (
        "image_labels_train.csv: 2 films, 2 of them there, 1 boxes",
        "image_labels_test.csv: 1 films, 1 of them there, 1 boxes",
    )
    assert known.missing == ()
    (physionet / "test" / f"{TEST}.dicom").unlink()
    known = recognise(physionet)
    assert known is not None
    assert known.missing == ("1 films that image_labels_test.csv names",)
    contest = recognise(kaggle)
    assert contest is not None
    assert contest.what.endswith("Kaggle's VinBigData has it")
    assert recognise(physionet.parent) is None
    (kaggle / "train.csv").write_text("image,label\na,b\n")
    assert recognise(kaggle) is None
