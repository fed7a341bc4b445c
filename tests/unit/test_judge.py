"""The labelling judge: patients of its own, labels with places, calibration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.stage import SPLITS
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.models.artifact import model_digest, read_card
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.judge import Judge
from medsynth_core.models.settings import ClassifierConfig
from medsynth_core.progress import silent
from medsynth_core.training.judge import calibration, fit_temperature
from medsynth_core.training.pairs import read_pairs
from medsynth_core.vocabulary.labels import anatomy_labels, is_anatomy, label_matrix, pathology_labels
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.check import check
from medsynth_core.workspace.params import configure, parse_config
from medsynth_core.workspace.stages import perform
from medsynth_core.workspace.tree import Config

EFFUSION = {"pathology": "pleural effusion", "anatomy": "costophrenic angle", "side": "left", "severity": "mild"}
EDEMA = {"pathology": "pulmonary edema", "anatomy": "lung", "side": "bilateral", "severity": None}
HEART = {"pathology": "cardiomegaly", "anatomy": "heart", "side": "none", "severity": None}
UNPLACED = {"pathology": "calcification", "anatomy": None, "side": "right", "severity": None}


def test_a_finding_lies_in_its_place_and_in_what_holds_it() -> None:
    assert pathology_labels([EFFUSION, HEART]) == {
        ("pleural effusion", "left"),
        ("cardiomegaly", "left"),
        ("cardiomegaly", "right"),
    }
    assert anatomy_labels([EFFUSION, UNPLACED]) == {("costophrenic angle", "left"), ("pleura", "left")}
    assert anatomy_labels([EDEMA]) == {("lung", "left"), ("lung", "right")}
    labels = [("pleura", "left"), ("pleura", "right"), ("calcification", "right"), ("pleural effusion", "left")]
    expected = [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(label_matrix(labels, [[EFFUSION], [UNPLACED], []]), expected)
    assert label_matrix([], [[EFFUSION]]).shape == (1, 0)
    assert [is_anatomy(term) for term in ("pleura", "pleural effusion", "unheard of")] == [True, False, False]


def test_nobody_else_learns_from_the_judges_patients(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    splits = {name: set(Corpus.open(paths["corpus"]).studies(name)["patient_id"].to_pylist()) for name in SPLITS}
    assert all(splits.values())
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())), "patients are disjoint"
    vocabulary = Vocabulary.load(paths["vocabulary"] / "vocabulary.json")
    assert vocabulary.n_studies == Corpus.open(paths["corpus"]).studies("train").num_rows
    own = read_pairs(paths, "judge")
    assert set(own.patients) <= splits["judge"]
    assert any(condition.findings for condition in own.conditions), "mining labels the split"
    codebook = VisualCodebook.load(paths["alignment"] / "codebook")
    assert not set(codebook.rows_E.tolist()) & set(own.rows.tolist())
    learnt = Judge.load(paths["judge"]).labels
    for term, side in learnt:
        having = {
            patient
            for patient, condition in zip(own.patients, own.conditions, strict=True)
            if (term, side) in pathology_labels(condition.findings) | anatomy_labels(condition.findings)
        }
        assert len(having) >= config.vocabulary.min_studies
    assert {is_anatomy(term) for term, _ in learnt} == {True, False}


def test_the_language_model_brings_the_judge_along(trained: tuple[Config, Paths]) -> None:
    _, paths = trained
    assert model_digest(paths["calibrate"] / "judge") == model_digest(paths["judge"])
    assert FindingClassifier.load(paths["calibrate"] / "judge").labels == Judge.load(paths["judge"]).labels
    card = read_card(paths["judge"])
    assert {"auroc_pathology", "auroc_anatomy", "calibration_error", "calibration_error_raw", "brier"} <= set(card)


def drawn(scale: float, seed: int = 0, n: int = 4000) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns logits that are ``scale`` times the true ones, what they say, and patients."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-1.0, 2.0, (n, 3))
    truth = draw.random(logits.shape) < expit(logits)
    return scale * logits, truth.astype(np.float32), [f"p{i // 2}" for i in range(n)]


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_a_known_miscalibration_is_found_and_undone(scale: float) -> None:
    logits, truth, patients = drawn(scale)
    assert fit_temperature(logits, truth) == pytest.approx(scale, rel=0.06)
    figures = calibration(logits, truth, patients)
    assert figures["calibration_error"] < 0.02
    if scale != 1.0:
        assert figures["calibration_error_raw"] > 3 * figures["calibration_error"]
        assert figures["brier_raw"] > figures["brier"]
        assert figures["log_loss_raw"] > figures["log_loss"]


def test_a_temperature_is_measured_on_patients_that_it_was_not_fitted_on() -> None:
    """Two halves that want opposite corrections: by a temperature of its own each would be well calibrated."""
    sharp, blunt = drawn(3.0, 1), drawn(1 / 3, 2)
    logits, truth = (np.concatenate(parts) for parts in zip(sharp[:2], blunt[:2], strict=True))
    own = calibration(*sharp)
    across = calibration(logits, truth, ["a"] * len(sharp[0]) + ["b"] * len(blunt[0]))
    assert across["log_loss"] > across["log_loss_raw"] > own["log_loss"]


def test_without_labels_or_patients_there_is_nothing_to_calibrate() -> None:
    assert fit_temperature(np.empty((5, 0)), np.empty((5, 0))) == 1.0
    assert calibration(np.empty((5, 0)), np.empty((5, 0)), ["a", "b", "c", "d", "e"]) == {}
    assert calibration(np.zeros((5, 1)), np.ones((5, 1)), ["a"] * 5) == {}


def test_a_judge_divides_by_its_temperature_and_stays_a_classifier(tmp_path: Path) -> None:
    net = FindingClassifier(ClassifierConfig(channels=(8, 8)), [("pleura", "left"), ("mass", "right")]).eval()
    Judge(net, 2.5).save(tmp_path)
    pixels = torch.rand(2, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(Judge.load(tmp_path)(pixels), net(pixels) / 2.5)
        torch.testing.assert_close(FindingClassifier.load(tmp_path)(pixels), net(pixels))
    before = model_digest(tmp_path)
    Judge(net, 3.0).save(tmp_path)
    assert model_digest(tmp_path) != before, "a temperature changes what is rejected"
    (tmp_path / "temperature.json").unlink()
    with pytest.raises(InputError, match="no temperature there"):
        Judge.load(tmp_path)


def test_too_few_patients_are_said(
    trained: tuple[Config, Paths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = trained
    (tmp_path / "data").mkdir()
    for name in ("corpus", "vocabulary"):
        (tmp_path / "data" / name).symlink_to(paths.root / "data" / name)
    strict = config.vocabulary.model_copy(update={"min_studies": 10_000})
    report = perform("judge", config.model_copy(update={"vocabulary": strict}), tmp_path, silent)
    figures = {name: value for name, value in report.metrics.items() if not name.startswith("dice_")}
    assert figures == {"labels": 0.0, "temperature": 1.0}
    assert "raise corpus.judge_fraction, or lower vocabulary.min_studies" in caplog.text


def test_a_judge_without_patients_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(ConfigError, match="labelling judge has no patients to learn from; raise it"):
        check(configure(["corpus.judge_fraction=0"]), tmp_path)
    with pytest.raises(ConfigError, match="or more for training"):
        parse_config({"corpus": {"judge_fraction": 0.85}}, "test")
