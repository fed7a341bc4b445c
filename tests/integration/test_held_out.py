"""The evaluation stage on a release of the tiny models, and what the report shows of it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation import report
from medsynth_core.evaluation.image_sets import real_images, synthetic_images
from medsynth_core.evaluation.oracle import Oracle
from medsynth_core.evaluation.page.gallery import gallery_rows
from medsynth_core.evaluation.page.neighbours import nearest_training_images
from medsynth_core.evaluation.stage import read_evaluation
from medsynth_core.evaluation.utility import read_utility
from medsynth_core.evaluation.worth import measured
from medsynth_core.filters.thumbnails import nearest, thumbnails
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.progress import silent
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.store import open_store
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def released(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Paths]:
    """A workspace with a release of the tiny models."""
    more = trained[0].synthesis.model_copy(update={"samples_per_prompt": 8})
    config, root = trained[0].model_copy(update={"synthesis": more}), tmp_path_factory.mktemp("released")
    init_workspace(root, config)
    (root / "data").mkdir()
    for name in ("data/corpus", "data/vocabulary", "data/prompts", "models"):
        (root / name).symlink_to(trained[1].root / name)
    paths, store = workspace_paths(root), open_store(config.store, root)
    perform("synthesis", config, paths.root, silent, store)
    perform("deduplicate", config, paths.root, silent, store)
    perform("privacy", config, paths.root, silent, store)
    perform("fidelity", config, paths.root, silent, store)
    perform("release", config, paths.root, silent, store)
    return config, paths


@pytest.fixture(autouse=True, scope="module")
def one_oracle() -> Iterator[None]:
    """Every report here asks the same oracle, and one that learnt little: a good one takes its time."""
    oracle = Oracle.fit(n=640, epochs=1, networks=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Oracle, "fit", lambda seed, phantoms, progress: oracle)
        yield


@pytest.fixture
def release(released: tuple[Config, Paths]) -> Release:
    return open_release(released[1].root)


def test_sides_are_read_whole_with_their_findings(released: tuple[Config, Paths], release: Release) -> None:
    manifest = release.manifest(["shard", "offset", "size", "pathology"]).to_pylist()
    images = synthetic_images(release, 1000, 0)
    read = np.concatenate(list(images.batches(7)))
    assert len(read) == len(images) == len(manifest)
    expected = {np.array(release.image(r["shard"], r["offset"], r["size"])).tobytes(): r for r in manifest}
    for pixels, shown in zip(read, images.pathologies, strict=True):
        assert shown == set(expected[pixels.tobytes()]["pathology"] or ["no finding"])
    some = synthetic_images(release, 5, 0)
    assert len(some) == 5
    np.testing.assert_array_equal(some.read(np.arange(5)), read[:5])
    config, paths = released
    held = real_images(paths, "test", {"frontal"}, 1000, 0)
    assert len(held) == pq.read_table(paths["corpus"] / "views.parquet", filters=[("split", "==", "test")]).num_rows
    assert len(real_images(paths, "test", {"lateral"}, 1000, 0)) == 0
    assert held.read(held.places(None)).shape[1:] == (config.corpus.image_size,) * 2


def test_a_release_is_compared_and_the_page_shows_it(released: tuple[Config, Paths], release: Release) -> None:
    config, paths = released
    found = perform("evaluation", config, paths.root, silent)
    assert found.n_synthetic == len(release.manifest())
    assert min(found.n_synthetic, found.n_held_out) >= 20
    features, pixels = found.figures["judge"], found.figures["pixels"]
    assert features["fid"] > 3 * features["fid_real"], "untrained models draw nothing like a phantom"
    assert features["precision"] < features["precision_real"]
    assert pixels["niqe"] > pixels["niqe_real"]
    metrics = json.loads((paths.metrics / "evaluation.json").read_text())
    assert metrics["judge"] == features
    assert metrics["n_held_out"] == found.n_held_out
    rows = list(csv.DictReader((paths["evaluation"] / "figures.csv").open()))
    assert len({row["label"] for row in rows}) > 1
    judged = [row for row in rows if row["metric"] == "auroc"]
    assert {row["extractor"] for row in judged} == {"judge on pathologies", "judge on anatomies"}
    prompted = {label["pathology"] for labels in release.manifest(["labels"])["labels"].to_pylist() for label in labels}
    assert {row["label"] for row in judged if row["extractor"] == "judge on pathologies"} == {"", *prompted}
    assert all((row["value"] == "") == (row["reason"] != "") for row in rows)
    points = (paths.metrics / "evaluation.csv").read_text().splitlines()
    assert len(points) == 1 + 2 * min(found.n_synthetic, found.n_held_out)
    assert perform("evaluation", config, paths.root, silent) == found, "the same release has the same figures"
    perform("utility", config, paths.root, silent)
    perform("report", config, paths.root, silent, open_store(config.store, paths.root))
    page = (paths["report"] / "report.html").read_text()
    assert "Against held-out real images" in page
    assert "t-SNE" in page
    assert "utility.shares" in page, "it wasn't asked for"
    assert json.loads((paths.metrics / "report.json").read_text())["n_images"] == found.n_synthetic
    counts = list(csv.DictReader((paths.metrics / "distribution.csv").open()))
    assert sum(int(row["images"]) for row in counts if row["label"].startswith("view: ")) == found.n_synthetic


def test_patients_are_shown_on_a_page_of_its_own_and_only_when_asked_for(
    released: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that ``record`` puts into the store must never show a training image that isn't a drawing."""
    config, paths = released
    store = open_store(config.store, paths.root)
    perform("evaluation", config, paths.root, silent)
    # a real corpus can't be shipped: the phantom stands for one
    monkeypatch.setattr(report, "is_of_drawings", lambda paths: False)
    perform("report", config, paths.root, silent, store)
    assert sorted(path.name for path in paths["report"].glob("*.html")) == ["report.html"]
    assert 'alt="the training image' not in (paths["report"] / "report.html").read_text()
    asked = config.model_copy(update={"report": config.report.model_copy(update={"training_images": True})})
    perform("report", asked, paths.root, silent, store)
    assert 'alt="the training image' not in (paths["report"] / "report.html").read_text()
    own = (paths["report"] / "report-with-training-images.html").read_text()
    assert "is nearest, of a patient." in own
    assert 'alt="the training image' in own


def test_training_images_are_those_of_the_models_corpus(released: tuple[Config, Paths], release: Release) -> None:
    _, paths = released
    rows = gallery_rows(release, 5)
    found = nearest_training_images(paths, rows)
    training = read_pairs(paths, "train")
    marks = thumbnails(training.corpus.images(training.rows))
    reference = TrainingSet.load(paths["calibrate"]).thumbnails
    assert len(reference) == len(training)
    for row, neighbour in zip(rows, found, strict=True):
        assert neighbour is not None
        mark = np.frombuffer(row["signature"], dtype=np.uint8)[None]
        distance, place = nearest(mark, reference)
        assert neighbour.distance == pytest.approx(float(distance[0]))
        assert (thumbnails(neighbour.image_u8[None]) == marks[place]).all()
    assert nearest_training_images(paths, [rows[0] | {"llm_sha256": "0"}]) == [None], "of another model"


def test_other_models_training_images_are_not_guessed(
    released: tuple[Config, Paths], release: Release, tmp_path: Path
) -> None:
    _, paths = released
    other = workspace_paths(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/vocabulary", "models"):
        (tmp_path / name).symlink_to(paths.root / name)
    shutil.copytree(paths["corpus"], other["corpus"])
    (other["corpus"] / "note.txt").write_text("changed")
    rows = gallery_rows(release, 2)
    assert nearest_training_images(other, rows) == [None, None]


def test_utility_is_measured_where_shares_are_named(
    released: tuple[Config, Paths], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, paths = released
    monkeypatch.setattr(measured, "_MIN_CASES", 3)
    asked = config.utility.model_copy(update={"shares": (0.5,), "seeds": 2, "steps": 2, "max_images": 20})
    found = perform("utility", config.model_copy(update={"utility": asked}), paths.root, silent)
    assert found.auroc["real"].keys() == {"50 % of real"}
    assert json.loads((paths.metrics / "utility.json").read_text()) == found.auroc
    perform("evaluation", config, paths.root, silent)
    perform("report", config, paths.root, silent, open_store(config.store, paths.root))
    page = (paths["report"] / "report.html").read_text()
    assert "synthetic, then real" in page
    assert read_utility(paths["utility"], "another@1") is None
    perform("utility", config, paths.root, silent)
    assert read_utility(paths["utility"], release.name) is None
    assert json.loads((paths.metrics / "utility.json").read_text()) == {}


def test_without_enough_real_images_no_figure_and_no_network_is_needed(released: tuple[Config, Paths]) -> None:
    config, paths = released
    wanting = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"min_images": 1000, "extractors": ("inception",)})}
    )
    found = perform("evaluation", wanting, paths.root, silent)
    assert found.figures == {}
    about = json.loads((paths["evaluation"] / "metrics.json").read_text())
    assert {row["reason"] for row in about["figures"]} == {"fewer than 1000 images"}
    perform("report", wanting, paths.root, silent, open_store(wanting.store, paths.root))
    assert "none: fewer than 1000 images" in (paths["report"] / "report.html").read_text()


def test_the_page_takes_no_evaluation_of_another_release(released: tuple[Config, Paths], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `medsynth evaluate` first"):
        read_evaluation(tmp_path, "x@1")
    (tmp_path / "metrics.json").write_text('{"release": "x@0"}')
    with pytest.raises(InputError, match="of x@0, not of x@1; run `medsynth evaluate` again"):
        read_evaluation(tmp_path, "x@1")
