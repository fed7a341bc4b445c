import csv
import gzip
import logging
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers.padchest import recognise
from medsynth_core.corpus.records import Given
from medsynth_core.corpus.stage import CorpusReport
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM",
    "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
SIDE = 64
STUDIES = (
    "20536686640136348236148679891455886468",
    "00839860488694292331637988235681460987",
    "313572750430997347502932654319389875966",
)
PATIENTS = ("839860488694292331637988235681460987", "075216", "91")
IMAGES = (f"{STUDIES[0]}_k6ga29.png", f"{STUDIES[0]}_0q5vv5.png", f"{STUDIES[1]}_02-092-190.png", f"{STUDIES[2]}_x.png")


def row(number: int, study: int, **cells: str) -> dict[str, str]:
    """One row as the table has them, with what programs write for nothing."""
    known = {
        "": str(number),
        "ImageID": IMAGES[number],
        "ImageDir": str(7 * number),
        "StudyDate_DICOM": "20140915",
        "StudyID": STUDIES[study],
        "PatientID": PATIENTS[study],
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": "PA",
        "Pediatric": "No",
        "Modality_DICOM": "CR",
        "Manufacturer_DICOM": "PhilipsMedicalSystems",
        "PhotometricInterpretation_DICOM": "MONOCHROME2",
        "SpatialResolution_DICOM": "5.0",
        "Rows_DICOM": str(SIDE),
        "Columns_DICOM": str(SIDE),
        "ReportID": "4765777",
        "Report": "sin hallazg patolog edad pacient .",
        "MethodLabel": "Physician",
    }
    return dict.fromkeys(COLUMNS, "nan") | known | cells


ROWS = (
    row(0, 0, Labels="['cardiomegaly', ' pleural effusion']"),
    row(1, 0, Labels="['cardiomegaly', ' pleural effusion']", Projection="L"),
    row(2, 1, Labels="['normal']", MethodLabel="RNN_model", Projection="AP_horizontal", PatientSex_DICOM="M"),
    row(3, 2, Labels="['infiltrates', ' normal', 'unchanged']", Projection="AP", Report="None", PatientBirth="nan"),
)


def write(folder: Path, rows: tuple[dict[str, str], ...], name: str = TABLE) -> None:
    with (folder / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def film() -> Image.Image:
    pixels = phantom_study(0, 0, SIDE).views[0].load()
    return Image.fromarray(np.asarray(pixels).astype(np.uint16) * 16)


@pytest.fixture
def archive(tmp_path: Path, film: Image.Image) -> Path:
    """Four films of three studies, each in its folder."""
    folder = tmp_path / "Archivo de tórax"
    for each in ROWS:
        (folder / each["ImageDir"]).mkdir(parents=True)
        film.save(folder / each["ImageDir"] / each["ImageID"])
    write(folder, ROWS)
    return folder


def read(archive: Path, **corpus: object) -> tuple[CorpusReport, Corpus]:
    settings = {"kind": "padchest", "path": str(archive), "image_size": 32, "max_bad_fraction": 0.5, "views": "all"}
    work = archive.parent / "work"
    report = perform("corpus", parse_config({"corpus": settings | corpus}, "test"), work, silent)
    return report, Corpus.open(work / "data" / "corpus")


def given(corpus: Corpus) -> dict[str, list[Given]]:
    return {row["study_id"]: row["given"] for batch in corpus.study_batches(100) for row in batch}


def skipped(archive: Path) -> str:
    return (archive.parent / "work" / "data" / "corpus" / "skipped.csv").read_text("utf-8")


def test_everything_that_is_published_is_read(archive: Path) -> None:
    report, corpus = read(archive)
    assert (sum(report.studies.values()), sum(report.views.values()), report.skipped) == (3, 4, 0)
    studies = corpus.studies().to_pylist()
    assert [(row["study_id"], row["patient_id"], row["sex"], row["age"], row["n_views"]) for row in studies] == [
        (f"padchest-{STUDIES[0]}", f"padchest-{PATIENTS[0]}", "F", 84, 2),
        (f"padchest-{STUDIES[1]}", "padchest-075216", "M", 84, 1),
        (f"padchest-{STUDIES[2]}", "padchest-91", "F", None, 1),
    ], "leading zeros and all digits of an id are kept"
    assert given(corpus) == {
        f"padchest-{STUDIES[0]}": [
            Given("cardiomegaly", "present", "PadChest physician"),
            Given("pleural effusion", "present", "PadChest physician"),
        ],
        f"padchest-{STUDIES[1]}": [Given("no finding", "present", "PadChest network")],
        f"padchest-{STUDIES[2]}": [Given("infiltrates", "present", "PadChest physician")],
    }


def test_spanish_reports_arent_read_as_text_and_say_so(archive: Path) -> None:
    report, corpus = read(archive)
    assert all(row["findings"] == row["impression"] == "" for row in corpus.studies().to_pylist())
    assert report.left_out == {"Spanish, without accents and endings": 2}


def test_views_have_projection_manufacturer_and_spacing(archive: Path) -> None:
    _, corpus = read(archive)
    views = corpus.views().to_pylist()
    assert [view["view_id"] for view in views] == list(IMAGES)
    assert [view["projection"] for view in views] == ["PA", "lateral", "AP supine", "AP"]
    assert {view["manufacturer"] for view in views} == {"PhilipsMedicalSystems"}
    assert {view["pixel_spacing_mm"] for view in views} == {5.0}, "64 pixels of 5 mm are as wide as a film"


@pytest.mark.parametrize("cells", [{"SpatialResolution_DICOM": "0.2"}, {"Rows_DICOM": "2140"}])
def test_spacing_is_unknown_where_it_is_of_no_film_or_the_films_were_scaled(
    archive: Path, cells: dict[str, str]
) -> None:
    write(archive, tuple(each | cells for each in ROWS))
    _, corpus = read(archive)
    assert {view["pixel_spacing_mm"] for view in corpus.views().to_pylist()} == {None}


def test_what_is_no_film_of_a_chest_and_what_has_no_label_is_counted_and_left_out(
    archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (
        ROWS[0],
        ROWS[1] | {"Projection": "EXCLUDE"},
        ROWS[2] | {"Labels": "['unchanged', ' exclude']"},
        ROWS[3] | {"Projection": "UNK"},
    )
    write(archive, rows)
    with caplog.at_level(logging.WARNING):
        report, corpus = read(archive, max_bad_fraction=0.0)
    assert sum(report.studies.values()) == sum(report.views.values()) == 2
    assert "1 films of projection COSTAL or EXCLUDE are left out" in caplog.text
    assert "1 films are left out, with no label or none but exclude, suboptimal study, unchanged" in caplog.text
    assert [view["projection"] for view in corpus.views().to_pylist()] == ["PA", "unknown"]


def test_films_that_arent_downloaded_yet_are_counted_and_left_out(
    archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (archive / "7" / IMAGES[1]).unlink()
    (archive / "14" / IMAGES[2]).unlink()
    with caplog.at_level(logging.WARNING):
        report, _ = read(archive, max_bad_fraction=0.0)
    assert (sum(report.studies.values()), sum(report.views.values())) == (2, 2)
    assert "2 of 4 rows are left out, whose images aren't there" in caplog.text


def test_as_many_studies_as_are_asked_for_are_read_with_all_their_films(archive: Path) -> None:
    report, _ = read(archive, max_studies=1)
    assert (sum(report.studies.values()), sum(report.views.values())) == (1, 2)


def test_the_compressed_table_and_films_elsewhere_are_read(archive: Path, tmp_path: Path) -> None:
    (archive / f"{TABLE}.gz").write_bytes(gzip.compress((archive / TABLE).read_bytes()))
    (archive / TABLE).unlink()
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in archive.glob("*/*.png"):
        path.rename(flat / path.name)
    assert sum(read(archive, images=str(flat))[0].views.values()) == 4


def cut_gz(archive: Path) -> None:
    data = gzip.compress((archive / TABLE).read_bytes() * 20)
    (archive / f"{TABLE}.gz").write_bytes(data[: len(data) // 2])
    (archive / TABLE).unlink()


def without_films(archive: Path) -> None:
    for path in archive.glob("*/*.png"):
        path.unlink()


def packed(archive: Path) -> None:
    with zipfile.ZipFile(archive / "0.zip", "w") as file:
        file.write(archive / "0" / IMAGES[0], IMAGES[0])
    without_films(archive)


def by_a_spreadsheet(archive: Path) -> None:
    write(archive, tuple(each | {"PatientID": "8.39861E+35"} for each in ROWS))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: (a / TABLE).unlink(), "set corpus.path to the folder it is in"),
        (lambda a: (a / TABLE).write_text("ImageID,StudyID\na,b\n"), "no column 'PatientID'"),
        (cut_gz, r"csv\.gz: cut off or damaged"),
        (without_films, r"none of the 4 images.*no image is there.*set corpus\.images"),
        (packed, r"none of the 4 images.*unpack 0\.zip and the other archives"),
        (by_a_spreadsheet, r"'PatientID' holds ids that a program has rounded, e\.g\. '8\.39861E\+35'"),
    ],
)
def test_what_cant_be_read_at_all_is_one_clear_error(
    archive: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(archive)
    with pytest.raises(InputError, match=reason) as caught:
        read(archive)
    assert "\n" not in str(caught.value)


def dangling(archive: Path) -> None:
    (archive / "0" / IMAGES[0]).unlink()
    (archive / "0" / IMAGES[0]).symlink_to("gone.png")


@pytest.mark.parametrize(
    ("damage", "reason", "films"),
    [
        (lambda a: write(a, (*ROWS, ROWS[3])), "its film is row 5's, too", 4),
        (lambda a: write(a, (ROWS[0], ROWS[1] | {"PatientID": "5"}, *ROWS[2:])), "another patient than row 2", 3),
        (lambda a: write(a, (ROWS[0], ROWS[1] | {"Labels": "['x']"}, *ROWS[2:])), "another labels than row 2", 3),
        (lambda a: write(a, (*ROWS[:2], ROWS[2] | {"PatientID": ""}, ROWS[3])), "nothing in column 'PatientID'", 3),
        (lambda a: write(a, (*ROWS[:3], ROWS[3] | {"Labels": "['infiltrates'"})), "a list of names is expected", 3),
        (lambda a: write(a, (*ROWS[:3], ROWS[3] | {"Labels": "infiltrates"})), "a list of names is expected", 3),
        (dangling, "a link to gone.png, which isn't there", 3),
        (lambda a: (a / "0" / IMAGES[0]).write_bytes(b""), "the file is empty", 3),
        (lambda a: (a / "0" / IMAGES[0]).write_bytes(b"%PDF-1.4"), "not a readable image", 3),
    ],
)
def test_a_bad_row_or_film_is_listed_and_the_others_are_read(
    archive: Path, damage: Callable[[Path], object], reason: str, films: int
) -> None:
    damage(archive)
    report, _ = read(archive)
    assert (sum(report.views.values()), report.skipped) == (films, 1)
    assert reason in skipped(archive)


def test_a_row_that_is_cut_off_is_listed(archive: Path) -> None:
    with (archive / TABLE).open("a", encoding="utf-8") as stream:
        stream.write("4,216840111366964013829543166512013353113303615_02-092-190.png,11\n")
    report, _ = read(archive)
    assert (sum(report.views.values()), report.skipped) == (4, 1)
    assert "3 cells where the header has 36" in skipped(archive)


def test_the_published_table_is_read(tmp_path: Path, film: Image.Image) -> None:
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision, which ships the table, isn't installed")
    with gzip.open(Path(spec.origin).parent / "data" / f"{TABLE}.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = tuple(islice(csv.DictReader(stream), 40))
    folder = tmp_path / "padchest"
    (folder / "0").mkdir(parents=True)
    write(folder, rows)
    for each in rows:
        film.save(folder / "0" / each["ImageID"])
    report, corpus = read(folder)
    said = [each for each in rows if each["Labels"] not in {"['unchanged']", "['exclude']"}]
    assert (sum(report.views.values()), report.skipped) == (len(said), 0)
    assert {view["projection"] for view in corpus.views().to_pylist()} <= {"PA", "lateral", "AP", "AP supine"}
    first = next(corpus.study_batches(1))[0]
    assert (first["sex"], first["age"]) == ("F", 84)
    assert first["given"] == [Given("no finding", "present", "PadChest physician")]


def test_it_is_recognised(archive: Path) -> None:
    known = recognise(archive)
    assert known is not None
    assert known.settings == {"kind": "padchest", "path": str(archive)}
    assert known.found == (
        f"{TABLE}: 4 rows, 3 studies of 3 patients",
        "4 films",
        "labels: 3 by Physician, 1 by RNN_model",
    )
    assert known.missing == ()
    packed(archive)
    known = recognise(archive)
    assert known is not None
    assert known.missing == (
        "4 films that the table names",
        "the films in 0.zip and the like, of 1 archives: unpack them",
    )
    assert recognise(archive.parent) is None
    (archive / TABLE).write_text("a,b\n1,2\n")
    assert recognise(archive) is None
