"""What `medsynth init --corpus` takes a folder for: an archive by its own layout before what many folders have."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.readers import recognised
from medsynth_core.corpus.readers.chexpert import LABELS
from medsynth_core.errors import InputError
from tests.dicoms import chest, saved

FILM = Image.fromarray(phantom_study(0, 0, 64).views[0].load())
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def films(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        FILM.save(folder / name)


def nih_by_kaggle(folder: Path) -> None:
    """Folders of images that might be classes, too."""
    names = [f"0000000{n}_000.png" for n in range(1, 5)]
    films(folder, *(f"images_00{n}/images/{name}" for n, name in enumerate(names, start=1)))
    rows = [f"{name},Effusion,0,{n},50,M,PA,2500,2500,0.14,0.14,\n" for n, name in enumerate(names)]
    (folder / "Data_Entry_2017_v2020.csv").write_text(NIH + "".join(rows))


def chexpert(folder: Path) -> None:
    """A table with an image column and columns of labels, as many have."""
    path = "train/patient00001/study1/view1_frontal.jpg"
    films(folder, path)
    labels = {name: [1.0] for name in LABELS}
    facts = {"Path": [f"CheXpert-v1.0-small/{path}"], "Sex": ["Male"], "Age": [60], "Frontal/Lateral": ["Frontal"],
             "AP/PA": ["PA"]}  # fmt: skip
    pd.DataFrame(facts | labels).to_csv(folder / "train.csv", index=False)


def classes(folder: Path) -> None:
    films(folder, "train/NORMAL/1.png", "train/NORMAL/2.png", "train/PNEUMONIA/3.png", "test/PNEUMONIA/4.png")


def hugging_face(folder: Path) -> None:
    films(folder, "train/1.png", "train/2.png")
    pd.DataFrame({"file_name": ["1.png", "2.png"], "text": ["Small effusion."] * 2}).to_csv(
        folder / "train" / "metadata.csv", index=False
    )


def dicom(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    for number in range(2):
        saved(folder / "a" / f"IM{number}", chest(number, StudyInstanceUID=f"1.2.{number}", PatientID="7"))


def table(folder: Path) -> None:
    films(folder, *(f"films/{n}.png" for n in range(6)))
    rows = {"Film": [f"films/{n}.png" for n in range(6)], "Report": ["Small left effusion. No pneumothorax."] * 6,
            "Patient ID": list("aabbcc"), "Gender": ["F", "F", "M", "M", "M", "M"]}  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "films.csv", index=False, sep=";")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(nih_by_kaggle, "nih"), (chexpert, "chexpert"), (classes, "hf"), (hugging_face, "hf"), (dicom, "dicom"),
     (table, "table")],
)  # fmt: skip
def test_a_folder_is_taken_for_what_it_is(make: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    seen = recognised(str(tmp_path / "corpus"))
    assert seen.settings["kind"] == kind
    assert seen.found


def test_what_is_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"no layout that is known \(.*nih.*\); a CSV or Parquet table"):
        recognised(str(tmp_path))
    with pytest.raises(InputError, match="not found"):
        recognised(str(tmp_path / "away"))


def test_the_section_is_written(tmp_path: Path) -> None:
    table(tmp_path / "corpus")
    command = [
        sys.executable,
        "-m",
        "medsynth_core.cli.main",
        "init",
        str(tmp_path / "w"),
        "--corpus",
        str(tmp_path / "corpus"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "found: 6 of 6 images that were looked for" in done.stdout
    assert "missing: no column of projections" in done.stdout
    section = yaml.safe_load((tmp_path / "w" / "params.yaml").read_text())["corpus"]
    assert (section["kind"], section["path"]) == ("table", str(tmp_path / "corpus" / "films.csv"))
    columns = {key: value for key, value in section["columns"].items() if value}
    assert columns == {"text": "Report", "image": "Film", "patient": "Patient ID", "sex": "Gender", "origin": "given"}
