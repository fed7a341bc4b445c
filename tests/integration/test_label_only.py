"""An archive of labels alone: they are the source's in every row, and every model trains on them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.progress import silent
from medsynth_core.training.pairs import read_pairs
from medsynth_core.vocabulary.given import findings_of
from medsynth_core.workspace.stages import perform, workspace_paths
from tests.conftest import tiny

pytestmark = pytest.mark.integration
FILMS = 330
NAMES = {
    "pleural effusion": "Effusion", "cardiomegaly": "Cardiomegaly", "consolidation": "Consolidation",
    "atelectasis": "Atelectasis", "lung nodule": "Nodule", "pneumothorax": "Pneumothorax",
    "pulmonary edema": "Edema", "emphysema": "Emphysema",
}  # fmt: skip
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


@pytest.fixture
def archive(tmp_path: Path) -> dict[str, list[str]]:
    """Writes a tree of NIH's and returns each film's labels."""
    (tmp_path / "nih" / "images").mkdir(parents=True)
    labels, lines = {}, [HEADER]
    for number in range(FILMS):
        study = phantom_study(4, number, 64)
        name = f"{number // 2:08d}_{number % 2:03d}.png"
        Image.fromarray(study.views[0].load()).save(tmp_path / "nih" / "images" / name)
        found = [NAMES[each["pathology"]] for each in study.truth["findings"] if each["pathology"] in NAMES]  # type: ignore[attr-defined]
        labels[name] = sorted(set(found))
        said = "|".join(labels[name]) or "No Finding"
        lines.append(f"{name},{said},{number % 2},{number // 2},{30 + number % 40},M,PA,2500,2500,0.14,0.14,")
    (tmp_path / "nih" / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return labels


def test_every_model_trains(archive: dict[str, list[str]], tmp_path: Path) -> None:
    config = tiny(corpus={"kind": "nih", "path": str(tmp_path / "nih")})
    paths = workspace_paths(tmp_path / "w")
    for stage in ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "llm"):
        perform(stage, config, paths.root, silent)
    rows = {row["study_id"]: row for row in pq.read_table(paths["vocabulary"] / "labels.parquet").to_pylist()}
    views = pq.read_table(paths["corpus"] / "views.parquet").to_pylist()
    assert len(views) == FILMS
    for view in views:
        wanted = {found.term for name in archive[Path(view["view_id"]).name] for found in findings_of(name) or ()}
        row = rows[view["study_id"]]
        assert {each["pathology"] for each in row["findings"]} == wanted
        assert {each["origin"] for each in row["statuses"]} <= {"NIH text mining"}
    pairs = read_pairs(paths, "train")
    assert not any(pairs.reported)
    assert all(pairs.texts)
