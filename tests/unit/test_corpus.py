import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.corpus import stage
from medsynth_core.corpus.images import load_film, resize_and_crop, to_pixels
from medsynth_core.corpus.normalised import IMAGES_PER_CHUNK, Corpus
from medsynth_core.corpus.records import UNMASKED, Source, Study, View
from medsynth_core.corpus.sections import parse_sections
from medsynth_core.corpus.stage import SPLITS, split_of
from medsynth_core.errors import InputError
from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config


def table_config(path: Path, **corpus: object) -> Config:
    return parse_config({"corpus": {"kind": "table", "path": str(path), "image_size": 32, **corpus}}, "test")


def write_table(folder: Path, **columns: list[str]) -> Path:
    path = folder / "studies.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_pixel_ranges_are_inverse() -> None:
    every = np.arange(256, dtype=np.uint8)
    inputs = to_inputs(every[None, None], torch.device("cpu"))
    assert np.array_equal(inputs.numpy().ravel(), to_pixels(every))
    assert np.array_equal(to_images(inputs).ravel(), every)
    assert to_pixels(every).min() == -1.0
    assert to_pixels(every).max() == 1.0
    with pytest.raises(TypeError, match="uint8"):
        to_pixels(every.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="uint8"):
        to_inputs(every.astype(np.float32)[None, None], torch.device("cpu"))  # type: ignore[arg-type]


def test_sixteen_bit_images_are_windowed(tmp_path: Path) -> None:
    values = np.linspace(1000, 3000, 40 * 40).reshape(40, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    film = load_film(tmp_path / "a.png", 10_000, 32)
    assert film.dtype == np.float32
    assert (film.min(), film.max()) == (0, 255)
    assert len(np.unique(film)) > 1000, "no level is lost before it is resized"


def test_an_image_above_the_limit_is_refused_before_it_is_decoded(png_folder: Path) -> None:
    with pytest.raises(InputError, match="max_image_pixels"):
        load_film(png_folder / "0.png", 1999, 32)


def test_crop_is_central_and_square() -> None:
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 200
    assert (resize_and_crop(wide, 10) == 200).all()


def test_a_table_with_images_is_normalised(tmp_path: Path, png_folder: Path) -> None:
    path = write_table(
        tmp_path, text=["Clear lungs."] * 3, filename=["0.png", "1.png", "2.png"], patient=["a", "a", "b"]
    )
    report = perform("corpus", table_config(path, columns={"patient": "patient"}), tmp_path / "w", silent)
    corpus = Corpus.open(tmp_path / "w" / "data" / "corpus")
    assert sum(report.studies.values()) == sum(report.views.values()) == 3
    assert corpus.images(np.array([2, 0])).shape == (2, 32, 32)
    by_patient = {(row["patient_id"], row["split"]) for row in corpus.studies().to_pylist()}
    assert len(by_patient) == 2, "one patient, one split"


def test_image_paths_may_be_relative_to_the_table(tmp_path: Path, png_folder: Path) -> None:
    path = write_table(tmp_path, text=["Clear lungs."] * 2, filename=["images/0.png", "images/1.png"])
    assert sum(perform("corpus", table_config(path), tmp_path / "w", silent).views.values()) == 2


def test_reports_without_images_are_read(tmp_path: Path) -> None:
    path = write_table(tmp_path, text=["Clear lungs.", "Effusion."], filename=["", ""])
    assert perform("corpus", table_config(path), tmp_path, silent).views == dict.fromkeys(SPLITS, 0)


@pytest.mark.parametrize(
    ("name", "encoding", "separator"),
    [
        ("t.tsv", "utf-8", "\t"),
        ("t.csv", "utf-16", "\t"),  # Excel's "Unicode text"
        ("t.csv", "utf-16-be", ","),
        ("t.csv", "utf-8-sig", ";"),
        ("t.txt", "utf-8", "\t"),
        ("t.csv", "cp1252", ","),
        ("t.csv.gz", "utf-8", ","),
        ("t.csv", "utf-8", "|"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, name: str, encoding: str, separator: str) -> None:
    rows = [("text", "filename"), ("Œdème, small; left effusion.", ""), ("Clear.", "")]
    quoted = "\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    data = f"{mark}{quoted}\n".encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    perform("corpus", table_config(tmp_path / name), tmp_path / "w", silent)
    texts = Corpus.open(tmp_path / "w" / "data" / "corpus").studies().column("findings").to_pylist()
    assert texts == ["Œdème, small; left effusion.", "Clear."]


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = write_table(tmp_path, report_text=["x"], filename=[""])
    with pytest.raises(InputError, match=r"no column 'text'; did you mean 'report_text'"):
        perform("corpus", table_config(path), tmp_path, silent)


def test_a_few_bad_images_are_listed_and_many_are_an_error(tmp_path: Path, png_folder: Path) -> None:
    (png_folder / "bad.png").write_bytes(b"not an image")
    path = write_table(tmp_path, text=["Clear."] * 4, filename=["0.png", "1.png", "2.png", "bad.png"])
    with pytest.raises(InputError, match=r"bad\.png.*1 of 8 rows, images and masks"):
        perform("corpus", table_config(path), tmp_path / "w", silent)
    assert not (tmp_path / "w" / "data" / "corpus").exists(), "a failed stage leaves nothing half written"
    assert perform("corpus", table_config(path, max_bad_fraction=0.5), tmp_path / "w", silent).skipped == 1
    assert "bad.png" in (tmp_path / "w" / "data" / "corpus" / "skipped.csv").read_text()


def test_an_image_path_that_leaves_its_folder_is_refused(tmp_path: Path, png_folder: Path) -> None:
    (tmp_path / "secret.png").write_bytes((png_folder / "0.png").read_bytes())
    path = write_table(tmp_path, text=["Clear."], filename=["../secret.png"])
    with pytest.raises(InputError, match="leaves its folder"):
        perform("corpus", table_config(path), tmp_path / "w", silent)


def test_openi_without_images_keeps_its_reports(tmp_path: Path) -> None:
    pd.DataFrame({"uid": ["1", "2"], "findings": ["Clear.", ""], "impression": ["", ""]}).to_csv(
        tmp_path / "indiana_reports.csv", index=False
    )
    pd.DataFrame({"uid": ["1"], "filename": ["a.png"], "projection": ["Frontal"]}).to_csv(
        tmp_path / "indiana_projections.csv", index=False
    )
    config = parse_config({"corpus": {"kind": "openi", "path": str(tmp_path), "max_bad_fraction": 0.5}}, "test")
    report = perform("corpus", config, tmp_path / "w", silent)
    assert (sum(report.studies.values()), report.skipped) == (1, 1)


def test_the_split_ignores_order_and_size() -> None:
    corpus = Config().corpus
    splits = [split_of(f"p{i}", 0, corpus) for i in range(2000)]
    assert splits[::-1] == [split_of(f"p{i}", 0, corpus) for i in reversed(range(2000))]
    assert 60 < splits.count("test") < 140
    assert 330 < splits.count("judge") < 470
    without = [split_of(f"p{i}", 0, corpus.model_copy(update={"judge_fraction": 0.0})) for i in range(2000)]
    assert ["train" if split == "judge" else split for split in splits] == without, "the judge's are of train alone"


def test_sections_keep_findings_and_impression_only() -> None:
    text = "EXAM: Chest PA.\nHISTORY: Cough.\nFINDINGS: Heart is large.\nNo effusion.\nIMPRESSION: Cardiomegaly."
    assert parse_sections(text) == ("Heart is large. No effusion.", "Cardiomegaly.")
    assert parse_sections("Lungs are clear.") == ("Lungs are clear.", "")


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        (
            "FINAL REPORT\nEXAMINATION: CHEST (PA AND LAT)\nINDICATION: Fall from a ladder.\nTECHNIQUE: Two views.\n"
            "COMPARISON: None.\nFINDINGS:\nThe heart is large.\nIMPRESSION:\n1. Cardiomegaly.",
            ("The heart is large.", "1. Cardiomegaly."),
        ),
        ("PORTABLE CHEST, AP UPRIGHT: Lungs are clear. IMPRESSION: Normal.", ("Lungs are clear.", "Normal.")),
        (
            "HISTORY\nCough for a week.\nFINDINGS\nNo effusion.\nIMPRESSION\nNormal chest.",
            ("No effusion.", "Normal chest."),
        ),
        ("REASON FOR EXAM: Pneumonia?\nFINDINGS AND IMPRESSION: Clear lungs.", ("Clear lungs.", "")),
        ("CLINICAL DATA: 50 years. FINDINGS/IMPRESSION: Clear.", ("Clear.", "")),
        ("Heart: enlarged. Effusion: none.", ("Heart: enlarged. Effusion: none.", "")),
        ("Findings\nare unchanged in the chest", ("Findings are unchanged in the chest", "")),
    ],
)
def test_sections_of_several_houses(text: str, sections: tuple[str, str]) -> None:
    assert parse_sections(text) == sections


def test_the_phantom_corpus_holds_a_patient_in_one_split(trained: tuple[Config, Paths]) -> None:
    rows = Corpus.open(trained[1]["corpus"]).studies().to_pylist()
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert json.loads((trained[1]["corpus"] / "corpus.json").read_text())["kind"] == "phantom"


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 1,040 views of 32 pixels, so of two chunks; every second view of the second chunk has a mask."""
    root = tmp_path_factory.mktemp("chunked")
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGES_PER_CHUNK + 16, 32, 32), dtype=np.uint8)

    def view(number: int) -> View:
        masked = number >= IMAGES_PER_CHUNK and number % 2
        return View(
            f"v{number}",
            "frontal",
            "made",
            lambda: pixels[number],
            (lambda: np.full((32, 32), 3, dtype=np.uint8)) if masked else None,
        )

    studies = [Study(f"s{n}", f"p{n}", "Clear.", "", (view(n),)) for n in range(len(pixels))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "open_corpus", lambda *_: Source(iter(studies), len(studies), "none"))
        perform("corpus", parse_config({"corpus": {"image_size": 32}}, "test"), root, silent)
    folder = workspace_paths(root)["corpus"]
    np.save(folder / "pixels.npy", pixels)
    return folder


LAST = np.array([IMAGES_PER_CHUNK, IMAGES_PER_CHUNK + 15])


def test_a_row_of_the_second_chunk_is_its_own(chunked: Path) -> None:
    corpus = Corpus.open(chunked)
    assert np.array_equal(corpus.images(LAST), np.load(chunked / "pixels.npy")[LAST])
    assert (corpus.masks(LAST)[:, 0, 0] == [UNMASKED, 3]).all()


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("images-00000.npy", Path.unlink, "not found"),
        ("images-00001.npy", Path.unlink, "not found"),
        ("images-00001.npy", lambda path: path.write_bytes(b""), "cut off or damaged"),
        ("images-00001.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut off or damaged"),
        ("images-00001.npy", lambda path: path.write_bytes(b"\0" * 2000), "cut off or damaged"),
        (
            "images-00001.npy",
            lambda path: np.save(path, np.zeros((15, 32, 32), np.uint8)),
            r"uint8 \[15, 32, 32\], expected",
        ),
        ("images-00001.npy", lambda path: np.save(path, np.zeros((16, 32, 32))), "float64"),
        ("masks-00001.npy", Path.unlink, "0 masks, corpus.json counts 8; missing is one or more of masks-00000.npy"),
        ("masks-00001.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut off or damaged"),
        ("views.parquet", Path.unlink, "not found"),
        ("views.parquet", lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut off or damaged"),
        ("studies.parquet", lambda path: path.write_bytes(b"PAR1"), "cut off or damaged"),
        ("corpus.json", lambda path: path.write_bytes(b"{"), "no JSON"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    chunked: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(chunked, folder)
    damage(folder / name)

    def read_all() -> None:
        corpus = Corpus.open(folder)
        corpus.studies(), corpus.views()
        corpus.masks(LAST)
        corpus.images(np.array([5, *LAST]))

    with pytest.raises(InputError, match=rf"{reason}.*run `medsynth corpus` again") as caught:
        read_all()
    assert name in str(caught.value)
