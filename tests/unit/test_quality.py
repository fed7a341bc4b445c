from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.errors import InputError, StateError
from medsynth_core.quality import alike, duplicate, registration
from medsynth_core.quality.agreement import AgreementFilter
from medsynth_core.quality.alike import CopyBounds, Marks, first_of_alike, reject_copies, release_copies
from medsynth_core.quality.anatomy import Anatomy, AnatomyFilter
from medsynth_core.quality.calibration import read_bound, save_scores
from medsynth_core.quality.degenerate import DegenerateFilter
from medsynth_core.quality.duplicate import (
    SIDE,
    TrainingCopyFilter,
    find_copies,
    first_of_copies,
    nearest,
    signatures,
)
from medsynth_core.quality.filters import Verdict, judge_images
from medsynth_core.quality.labels import LabelFilter
from medsynth_core.quality.niqe import NaturalnessFilter, NaturalnessModel
from medsynth_core.quality.noise import NoiseFilter, noise
from medsynth_core.quality.registration import Registration
from medsynth_core.quality.sharpness import SharpnessFilter, sharpness
from medsynth_core.synthesis.inputs import PromptRow

EFFUSION = PromptRow(
    "p0",
    "A left pleural effusion.",
    ({"pathology": "pleural effusion", "anatomy": "pleura", "side": "left", "severity": None},),
    "frontal",
)
PHANTOMS = np.stack([phantom_study(0, index, 64).views[0].load() for index in range(40)])
STUDIED = np.stack([phantom_study(1, index, 64).views[0].load() for index in range(400)])


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_is_always_rejected(level: int) -> None:
    blank = np.full((1, 64, 64), level, dtype=np.uint8)
    verdict = judge_images([DegenerateFilter(8.0, 0.6)], blank, [EFFUSION])[0]
    assert verdict.reasons == ["degenerate:blank"]


def test_good_phantoms_pass() -> None:
    verdicts = judge_images([DegenerateFilter(8.0, 0.6)], PHANTOMS, [EFFUSION] * len(PHANTOMS))
    assert all(verdict.accepted for verdict in verdicts)


def test_a_copy_of_a_training_image_is_found_in_spite_of_brightness() -> None:
    copied = np.clip(PHANTOMS[3].astype(int) + 12, 0, 255).astype(np.uint8)
    judge = TrainingCopyFilter(Registration(signatures(PHANTOMS)), 0.03)
    fresh = phantom_study(5, 999, 64).views[0].load()
    reasons = [j.reason for j in judge.judge(np.stack([copied, fresh]), [EFFUSION] * 2)]
    assert reasons == ["duplicate:training", None]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("window", [(0, 0, 64, 64), (0, 0, 60, 60), (3, 2, 63, 62), (4, 3, 61, 60)])
def test_a_copy_is_found_in_spite_of_exposure_crop_and_mirroring(
    window: tuple[int, int, int, int], mirrored: bool
) -> None:
    cropped = Image.fromarray(PHANTOMS[7]).resize((64, 64), Image.Resampling.BILINEAR, box=window)
    copied = np.rint(np.asarray(cropped) * 0.8 + 11).astype(np.uint8)[None, :, :: -1 if mirrored else 1]
    others = np.delete(PHANTOMS, 7, 0)
    assert Registration(signatures(PHANTOMS)).distances(copied)[0] < 0.05
    assert Registration(signatures(others)).distances(copied)[0] > 0.05


def test_registration_to_itself_is_exact_up_to_rounding_and_needs_a_reference() -> None:
    assert Registration(signatures(PHANTOMS)).distances(PHANTOMS).max() < 0.01
    assert Registration(signatures(PHANTOMS[:0])).distances(PHANTOMS[:2]).tolist() == [1.0, 1.0]
    assert len(Registration(signatures(PHANTOMS)).distances(PHANTOMS[:0])) == 0


def test_registration_does_not_depend_on_blocks_of_references(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Registration(signatures(PHANTOMS[:30])).distances(PHANTOMS[30:])
    monkeypatch.setattr(registration, "_REFERENCES_A_BLOCK", 7)
    monkeypatch.setattr(registration, "_IMAGES_A_BLOCK", 3)
    assert np.allclose(Registration(signatures(PHANTOMS[:30])).distances(PHANTOMS[30:]), whole)


def test_noise_of_known_deviation_is_estimated() -> None:
    flat = 128 + np.random.default_rng(0).normal(0, 6, (4, 256, 256))
    assert noise(np.rint(flat).astype(np.uint8)) == pytest.approx(6.0, rel=0.03)
    assert noise(np.tile(np.arange(64, dtype=np.uint8), (1, 64, 1))) == pytest.approx(0.0, abs=1e-5)


def test_contrast_changes_no_sharpness() -> None:
    strong = PHANTOMS[:4] // 2 * 2
    assert sharpness(strong // 2) == pytest.approx(sharpness(strong), rel=1e-4)


BAD = {
    "sharpness:blurred": lambda images: gaussian_filter(images, (0, 1.5, 1.5)),
    "noise:high": lambda images: np.clip(images + np.random.default_rng(0).normal(0, 15, images.shape), 0, 255),
    "anatomy:inverted": lambda images: 255 - images,
    "anatomy:unusual": lambda images: np.roll(images, 9, 2),
    "niqe:unnatural": lambda images: np.random.default_rng(0).integers(0, 255, images.shape),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_images_are_rejected_and_good_ones_pass(reason: str) -> None:
    anatomy, natural = Anatomy(signatures(STUDIED)), NaturalnessModel.fit(STUDIED)
    judge = {
        "sharpness": SharpnessFilter(sharpness(STUDIED).min() * 0.9),
        "noise": NoiseFilter(noise(STUDIED).max() * 1.1),
        "anatomy": AnatomyFilter(anatomy, 5.0),
        "niqe": NaturalnessFilter(natural, natural.scores(STUDIED).max() * 2),
    }[reason.split(":")[0]]
    bad = BAD[reason](PHANTOMS).astype(np.uint8)
    assert {judgement.reason for judgement in judge.judge(bad, [EFFUSION] * len(bad))} == {reason}
    assert {judgement.reason for judgement in judge.judge(PHANTOMS, [EFFUSION] * len(bad))} == {None}


def test_a_missing_a_contralateral_and_an_unprompted_finding_are_rejected() -> None:
    labels = [("pleural effusion", "left"), ("pleural effusion", "right"), ("lung nodule", "left")]
    logits = np.array([[4, -4, -4], [-4, -4, -4], [-4, 4, -4], [4, -4, 4]], dtype=np.float32)
    features = np.arange(8, dtype=np.float16).reshape(4, 2)
    judge = LabelFilter(lambda images: (logits, features), labels, 2.0)
    judgements = judge.judge(PHANTOMS[:4], [EFFUSION] * 4)
    assert [judgement.reason for judgement in judgements] == [None, *["labels:differ"] * 3]
    assert judgements[0].scores["score_labels"] == pytest.approx(3 * np.log1p(np.exp(-4)))
    verdicts = judge_images([judge], PHANTOMS[:4], [EFFUSION] * 4)
    assert [list(verdict.features) for verdict in verdicts if verdict.features is not None] == features.tolist()


LIMITS = CopyBounds(0.001, 0.1)


def marks_of(picks: list[int], features: list[list[float]] | None = None) -> Marks:
    """Returns the thumbnails of phantoms and given features; without any, features that differ."""
    there = np.arange(len(picks) * 2).reshape(-1, 2) if features is None else features
    return Marks(signatures(PHANTOMS[picks]), np.array(there, dtype=np.float16), np.ones(len(picks), dtype=bool))


def test_the_first_of_two_copies_stays() -> None:
    verdicts = [Verdict() for _ in range(3)]
    reject_copies(verdicts, marks_of([0, 1, 0]), LIMITS)
    assert [verdict.accepted for verdict in verdicts] == [True, True, False]


def test_a_copy_of_an_image_that_was_rejected_stays() -> None:
    verdicts = [Verdict(reasons=["agreement:low"]), Verdict(), Verdict()]
    reject_copies(verdicts, marks_of([0, 0, 0]), LIMITS)
    assert [verdict.reasons for verdict in verdicts] == [["agreement:low"], [], ["duplicate:release"]]
    nothing = Marks(signatures(PHANTOMS[:1]), np.zeros((0, 0), dtype=np.float16), np.zeros(1, dtype=bool))
    reject_copies([Verdict(reasons=["degenerate:blank"])], nothing, LIMITS)


def test_what_looks_alike_to_the_judge_is_a_copy_too() -> None:
    verdicts = [Verdict() for _ in range(5)]
    features = [[0.0, 0.0], [0.05, 0.0], [0.0, 0.0], [9.0, 0.0], [9.3, 0.0]]
    reject_copies(verdicts, marks_of([0, 1, 0, 3, 4], features), LIMITS)
    assert [verdict.reasons for verdict in verdicts] == [[], ["duplicate:alike"], ["duplicate:release"], [], []]
    assert "score_release_features" not in verdicts[0].scores, "there is none before it"
    assert verdicts[1].scores["score_release_features"] == pytest.approx(0.05 / np.sqrt(2), rel=0.01)
    assert verdicts[4].scores["score_release_features"] == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_release_is_searched_as_its_shards_are() -> None:
    marks = marks_of([0, 1, 0, 3, 4], [[0.0, 0.0], [0.05, 0.0], [0.0, 0.0], [9.0, 0.0], [9.0, 0.1]])
    found = release_copies(marks, LIMITS, 0)
    assert {row: copy.reason for row, copy in found.items()} == {
        1: "duplicate:alike",
        2: "duplicate:release",
        4: "duplicate:alike",
    }
    assert set(release_copies(marks, LIMITS, 2)) == {2, 4}, "the first two are the parent's, and stay"
    without = Marks(marks.thumbnails, marks.features[3:], np.array([False, False, False, True, True]))
    assert set(release_copies(without, LIMITS, 0)) == {2, 4}, "an older parent's images have no features"


@given(seed=st.integers(0, 10_000), bound=st.sampled_from([0.0, 0.1, 0.5, 3.0]), n_kept=st.sampled_from([0, 7]))
@settings(max_examples=30, deadline=None)
def test_features_are_searched_greedily(seed: int, bound: float, n_kept: int) -> None:
    random = np.random.default_rng(seed)
    features = (random.integers(0, 5, (60, 3)) + random.normal(0, 0.05, (60, 3))).astype(np.float16)
    kept, expected = list(range(n_kept)), set()
    for row in range(n_kept, 60):
        distances = np.sqrt(np.square(features[kept].astype(float) - features[row]).mean(1))
        if (np.abs(distances - bound) < 1e-3).any():
            return
        if (distances <= bound).any():
            expected.add(row)
        else:
            kept.append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicate, "_SETTLED_AT_ONCE", 16)
        patch.setattr(alike, "_ROWS_A_BLOCK", 5)
        copied, _ = first_of_alike(features, bound, n_kept)
    assert set(np.flatnonzero(copied).tolist()) == expected


def test_distance_is_zero_to_itself_and_one_without_reference() -> None:
    marks = signatures(PHANTOMS)
    distance, row = nearest(marks, marks)
    assert distance.max() == 0.0
    assert row.tolist() == list(range(len(PHANTOMS)))
    assert nearest(marks[:1], marks[:0])[0].tolist() == [1.0]


def test_a_rejected_image_is_not_scored_further() -> None:
    seen: list[int] = []

    def scorer(images: np.ndarray, prompts: object) -> np.ndarray:
        seen.append(len(images))
        return np.array([0.9, 0.1], dtype=np.float32)

    batch = np.concatenate([np.zeros((1, 64, 64), dtype=np.uint8), PHANTOMS[:2]])
    verdicts = judge_images([DegenerateFilter(8.0, 0.6), AgreementFilter(scorer, 0.5)], batch, [EFFUSION] * 3)
    assert seen == [2]
    assert [v.reasons for v in verdicts] == [["degenerate:blank"], [], ["agreement:low"]]
    assert "score_agreement" not in verdicts[0].scores


def test_the_bound_is_a_quantile_of_held_out_scores(tmp_path: Path) -> None:
    save_scores(tmp_path, {"copy": range(100, -1, -1), "labels": [1.0]})
    assert read_bound(tmp_path, "copy", 0.02, without=0.0) == 2.0
    assert read_bound(tmp_path, "copy", 0.02, without=0.0, margin=0.5) == pytest.approx(2.0 - 0.5 * 48)
    assert read_bound(tmp_path, "copy", 0.9, without=0.0, margin=0.5) == pytest.approx(90 + 0.5 * 40)
    assert read_bound(tmp_path, "labels", 0.5, without=0.0) == 1.0
    save_scores(tmp_path, {"copy": []})
    assert read_bound(tmp_path, "copy", 0.02, without=-1.0) == -1.0
    with pytest.raises(InputError, match=r"calibration.json: no agreement scores"):
        read_bound(tmp_path, "agreement", 0.02, without=-1.0)


def test_a_score_that_is_no_number_is_low_and_breaks_calibration(tmp_path: Path) -> None:
    broken = AgreementFilter(lambda images, prompts: np.array([np.nan], dtype=np.float32), -1.0)
    assert broken.judge(PHANTOMS[:1], [EFFUSION])[0].reason == "agreement:low"
    save_scores(tmp_path, {"agreement": [0.1, np.nan]})
    with pytest.raises(StateError, match="1 of 2 agreement scores"):
        read_bound(tmp_path, "agreement", 0.02, without=-1.0)


def greedy(marks: np.ndarray, bound: float) -> dict[int, float]:
    """The law itself: an image is a copy when it lies within the bound of an earlier one that isn't."""
    kept: list[int] = []
    copies: dict[int, float] = {}
    for index in range(len(marks)):
        distance = float(nearest(marks[index : index + 1], marks[kept])[0][0])
        if distance <= np.float32(bound):
            copies[index] = distance
        else:
            kept.append(index)
    return copies


@given(seed=st.integers(0, 10_000), bound=st.sampled_from([0.0, 0.003, 0.01, 0.05, 1.0]))
@settings(max_examples=40, deadline=None)
def test_both_searches_are_the_greedy_one(seed: int, bound: float) -> None:
    random = np.random.default_rng(seed)
    centres = random.integers(40, 200, (6, SIDE * SIDE))
    marks = np.clip(centres[random.integers(0, 6, 60)] + random.integers(-4, 5, (60, SIDE * SIDE)), 0, 255)
    marks = marks.astype(np.uint8)
    expected = greedy(marks, bound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicate, "_SETTLED_AT_ONCE", 16)
        assert find_copies(marks, bound) == expected
        copies, distances = first_of_copies(marks, bound)
    assert {int(i): float(distances[i]) for i in np.flatnonzero(copies)} == expected


def test_one_image_repeated_keeps_one() -> None:
    marks = np.repeat(signatures(PHANTOMS[:1]), 3000, axis=0)
    assert len(find_copies(marks, 0.0)) == 2999
    assert find_copies(marks[:0], 0.0) == {}
