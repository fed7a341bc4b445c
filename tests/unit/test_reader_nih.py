import gzip
import logging
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers.nih import recognise
from medsynth_core.corpus.records import Given
from medsynth_core.corpus.stage import CorpusReport
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = (
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,No Finding,1,1,059Y,M,AP,2500,2048,0.168,0.168,",
    "00000002_000.png,Effusion,0,2,018M,F,PA,2992,2991,0.143,0.143,",
    "00000003_000.png,Hernia|Infiltration,0,3,414Y,F,PA,2992,2991,0.143,0.143,",
)
SIDE = 64


@pytest.fixture(scope="module")
def film() -> Image.Image:
    return Image.fromarray(phantom_study(0, 0, SIDE).views[0].load())


@pytest.fixture
def archive(tmp_path: Path, film: Image.Image) -> Path:
    """Four films of three patients, in two of Kaggle's folders, with boxes and the lists of the split."""
    folder = tmp_path / "NIH – films of Ünal"
    for number, row in enumerate(ROWS):
        place = folder / f"images_00{1 + number // 2}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        film.save(place / row.split(",")[0])
    write(folder, ROWS)
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Cardiomegaly,256.0,512.0,512.0,256.0\n"
    (folder / "BBox_List_2017.csv").write_text(boxes, "utf-8")
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n", "utf-8")
    (folder / "test_list.txt").write_text("00000002_000.png", "utf-8")
    return folder


def write(folder: Path, rows: tuple[str, ...], header: str = HEADER) -> None:
    (folder / "Data_Entry_2017.csv").write_text("\n".join((header, *rows)) + "\n", "utf-8")


def read(archive: Path, **corpus: object) -> tuple[CorpusReport, Corpus]:
    settings = {"kind": "nih", "path": str(archive), "image_size": 32, "max_bad_fraction": 0.5, **corpus}
    work = archive.parent / "work"
    report = perform("corpus", parse_config({"corpus": settings}, "test"), work, silent)
    return report, Corpus.open(work / "data" / "corpus")


def given(corpus: Corpus) -> dict[str, list[Given]]:
    return {row["study_id"]: row["given"] for batch in corpus.study_batches(100) for row in batch}


def skipped(archive: Path) -> str:
    return (archive.parent / "work" / "data" / "corpus" / "skipped.csv").read_text("utf-8")


def replaced(archive: Path, old: str, new: str) -> None:
    path = archive / "Data_Entry_2017.csv"
    assert old in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def test_everything_that_is_published_is_read(archive: Path) -> None:
    report, corpus = read(archive, val_fraction=0.0, judge_fraction=0.0)
    assert (report.studies, report.skipped) == ({"train": 3, "judge": 0, "val": 0, "test": 1}, 0)
    assert report.views == report.studies
    studies = {row["study_id"]: row for row in corpus.studies().to_pylist()}
    assert [(row["patient_id"], row["sex"], row["age"]) for row in studies.values()] == [
        ("nih-1", "M", 58),
        ("nih-1", "M", 59),
        ("nih-2", "F", 1),
        ("nih-3", "F", None),
    ], "414 years are nobody's age"
    assert studies["nih-00000002_000"]["split"] == "test"
    assert all(row["findings"] == row["impression"] == "" for row in studies.values())
    assert given(corpus) == {
        "nih-00000001_000": [
            Given("Cardiomegaly", "present", "NIH text mining"),
            Given("Emphysema", "present", "NIH text mining"),
        ],
        "nih-00000001_001": [Given("no finding", "present", "NIH text mining")],
        "nih-00000002_000": [Given("Effusion", "present", "NIH text mining")],
        "nih-00000003_000": [
            Given("Hernia", "present", "NIH text mining"),
            Given("Infiltration", "present", "NIH text mining"),
        ],
    }


def test_views_have_projection_spacing_and_boxes_of_the_file(archive: Path) -> None:
    _, corpus = read(archive)
    views = corpus.views().to_pylist()
    assert [view["view_id"] for view in views] == [row.split(",")[0] for row in ROWS]
    assert [view["projection"] for view in views] == ["PA", "AP", "PA", "PA"]
    spacing = [view["pixel_spacing_mm"] for view in views]
    assert spacing[1] is None, "2500 x 2048 pixels that became a square aren't square any more"
    assert spacing[2] == pytest.approx(0.143 * 2992 / SIDE)
    assert corpus.boxes().to_pylist() == [
        {"row": 0, "name": "Cardiomegaly", "origin": "radiologist", "x0": 0.25, "y0": 0.5, "x1": 0.75, "y1": 0.75}
    ]


@pytest.mark.parametrize("commas", [("", ""), (",,,", ""), (",,,", ",,,")])
def test_boxes_are_read_with_whichever_commas_a_copy_has(archive: Path, commas: tuple[str, str]) -> None:
    head, row = "Image Index,Finding Label,Bbox [x,y,w,h]", "00000001_000.png,Cardiomegaly,256.0,512.0,512.0,256.0"
    (archive / "BBox_List_2017.csv").write_text(f"{head}{commas[0]}\n{row}{commas[1]}\n")
    report, _ = read(archive)
    assert (report.boxes, report.skipped) == (1, 0)


def test_the_later_version_is_preferred_and_has_plain_ages(archive: Path) -> None:
    header = HEADER.rstrip(",").replace("Gender", "Sex")
    rows = (ROWS[0].rstrip(",").replace("058Y", "57"),)
    (archive / "Data_Entry_2017_v2020.csv").write_text("\n".join((header, *rows)), "utf-8")
    report, corpus = read(archive)
    assert sum(report.studies.values()) == 1
    assert [(row["age"], row["sex"]) for row in corpus.studies().to_pylist()] == [(57, "M")]


def test_kaggles_sample_is_read(archive: Path) -> None:
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImageWidth,"
        "OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
    )
    (archive / "sample_labels.csv").write_text(f"{header}\n{ROWS[2].rstrip(',')}\n", "utf-8")
    (archive / "Data_Entry_2017.csv").unlink()
    _, corpus = read(archive)
    (view,) = corpus.views().to_pylist()
    assert view["pixel_spacing_mm"] == pytest.approx(0.143 * 2992 / SIDE)


def test_films_that_arent_downloaded_yet_are_counted_and_left_out(
    archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (archive / "images_002" / "images").iterdir():
        path.unlink()
    with caplog.at_level(logging.WARNING):
        report, _ = read(archive, max_bad_fraction=0.0)
    assert sum(report.studies.values()) == 2
    assert "2 of 4 rows are left out, whose images aren't there" in caplog.text


def test_as_many_studies_as_are_asked_for_are_read(archive: Path) -> None:
    assert sum(read(archive, max_studies=3)[0].studies.values()) == 3


def test_films_may_be_elsewhere_flat_and_converted(archive: Path, tmp_path: Path, film: Image.Image) -> None:
    for path in archive.glob("images_*/images/*.png"):
        path.unlink()
    place = tmp_path / "flat"
    place.mkdir()
    film.save(place / "00000002_000.jpg")
    _, corpus = read(archive, images=str(place))
    assert [view["view_id"] for view in corpus.views().to_pylist()] == ["00000002_000.jpg"]


def test_without_lists_the_split_is_by_chance(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    (archive / "test_list.txt").unlink()
    with caplog.at_level(logging.WARNING):
        read(archive)
    assert "test_list.txt: not found" in caplog.text
    assert "1 films are in no list" in caplog.text


def cut_gz(archive: Path) -> None:
    path = archive / "Data_Entry_2017.csv"
    data = gzip.compress(path.read_bytes() * 50)
    path.with_name("Data_Entry_2017.csv.gz").write_bytes(data[: len(data) // 2])
    path.unlink()


def garbled_gz(archive: Path) -> None:
    path = archive / "Data_Entry_2017.csv"
    data = bytearray(gzip.compress(path.read_bytes()))
    data[20:40] = b"\xff" * 20
    path.with_name("Data_Entry_2017.csv.gz").write_bytes(data)
    path.unlink()


def cut_zip(archive: Path) -> None:
    path = archive / "Data_Entry_2017.csv"
    with zipfile.ZipFile(archive / "Data_Entry_2017.csv.zip", "w") as file:
        file.write(path, path.name)
    packed = archive / "Data_Entry_2017.csv.zip"
    packed.write_bytes(packed.read_bytes()[:-30])
    path.unlink()


def lists_of_numbers(archive: Path) -> None:
    (archive / "train_val_list.txt").write_text("1_0.png\n")
    (archive / "test_list.txt").write_text("2_0.png\n")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: (a / "Data_Entry_2017.csv").unlink(), "Data_Entry_2017.csv is there; set corpus.path"),
        (lambda a: replaced(a, "Finding Labels", "Labels"), "no column 'Finding Labels'"),
        (cut_gz, r"Data_Entry_2017\.csv\.gz: cut off or damaged"),
        (garbled_gz, r"Data_Entry_2017\.csv\.gz: cut off or damaged"),
        (cut_zip, r"Data_Entry_2017\.csv\.zip: cut off or damaged"),
        (lists_of_numbers, r"test_list\.txt: none of 2 films is in Data_Entry_2017\.csv: '1_0' here, '0000"),
        (lambda a: (a / "test_list.txt").write_text("00000001_000.png"), "is in train_val_list.txt and test_list.txt"),
        (lambda a: [path.unlink() for path in a.glob("images_*/images/*")], "none of the 4 images.*no image is there"),
        (lambda a: write(a, ()), "the table has no rows"),
    ],
)
def test_what_cant_be_read_at_all_is_one_clear_error(
    archive: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(archive)
    with pytest.raises(InputError, match=reason) as caught:
        read(archive)
    assert "\n" not in str(caught.value)


def test_corpus_images_must_be_a_folder(archive: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.images is not a folder"):
        read(archive, images=str(archive / "nowhere"))


def dangling(archive: Path) -> None:
    path = archive / "images_001" / "images" / "00000001_000.png"
    path.unlink()
    path.symlink_to("gone.png")


def in_film(archive: Path, data: bytes) -> None:
    (archive / "images_001" / "images" / "00000001_000.png").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason", "films"),
    [
        (lambda a: write(a, (*ROWS, ROWS[0])), "its film is row 2's, too", 4),
        (lambda a: write(a, (*ROWS, "00000009_000.png,Mass")), "2 cells where the header has 12", 4),
        (lambda a: replaced(a, "Effusion,0,2,", "Effusion,0,3,"), "of patient 2 by its name, of '3' by its row", 3),
        (lambda a: replaced(a, "Effusion,0,2,", "Effusion,0,,"), "nothing in column 'Patient ID'", 3),
        (lambda a: replaced(a, ",Effusion,", ",,"), "nothing in column 'Finding Labels'", 3),
        (lambda a: replaced(a, "Hernia", "No Finding"), "both no finding and others", 3),
        (dangling, r"a link to gone\.png, which isn't there", 3),
        (lambda a: in_film(a, b""), "the file is empty", 3),
        (lambda a: in_film(a, b"GIF"), "not a readable image", 3),
    ],
)
def test_a_bad_row_or_film_is_listed_and_the_others_are_read(
    archive: Path, damage: Callable[[Path], object], reason: str, films: int
) -> None:
    damage(archive)
    report, _ = read(archive)
    assert (sum(report.views.values()), report.skipped) == (films, 1)
    assert reason.replace("\\", "") in skipped(archive)


def test_a_box_without_numbers_is_a_bad_row(archive: Path) -> None:
    text = (archive / "BBox_List_2017.csv").read_text()
    (archive / "BBox_List_2017.csv").write_text(text.replace("256.0,512.0", "256.0,left", 1))
    report, _ = read(archive)
    assert (report.boxes, report.skipped) == (0, 1)
    assert "not of four numbers" in skipped(archive)


def published(name: str) -> list[str]:
    """The lines of a table as it was published, which torchxrayvision ships."""
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision isn't installed")
    with gzip.open(Path(spec.origin).parent / "data" / name, "rt", encoding="utf-8") as stream:
        return stream.read().splitlines()


def test_the_published_tables_are_read(tmp_path: Path, film: Image.Image) -> None:
    head, *rows = published("Data_Entry_2017_v2020.csv.gz")
    boxes = published("BBox_List_2017.csv.gz")
    boxed = {line.split(",")[0] for line in boxes[1:]}
    kept = [row for row in rows if row.split(",")[0] in boxed][:12]
    folder = tmp_path / "nih"
    folder.mkdir()
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([head, *kept]))
    (folder / "BBox_List_2017.csv").write_text("\n".join(boxes))
    for row in kept:
        film.save(folder / row.split(",")[0])
    report, corpus = read(folder)
    assert (len(rows), len(boxed)) == (112_120, 880)
    assert (sum(report.views.values()), report.skipped) == (12, 0)
    assert report.boxes >= 12
    assert all(row["given"] and row["sex"] and row["age"] for row in next(corpus.study_batches(12)))


def test_it_is_recognised(archive: Path) -> None:
    known = recognise(archive)
    assert known is not None
    assert known.settings == {"kind": "nih", "path": str(archive)}
    assert "Data_Entry_2017.csv: 4 rows of 3 patients" in known.found
    assert "4 films" in known.found
    (archive / "BBox_List_2017.csv").unlink()
    (archive / "images_002" / "images" / "00000003_000.png").unlink()
    known = recognise(archive)
    assert known is not None
    assert known.missing == ("BBox_List_2017.csv: without it, there are no boxes", "1 films that the table names")
    assert recognise(archive.parent) is None
    replaced(archive, "Finding Labels", "Labels")
    assert recognise(archive) is None
