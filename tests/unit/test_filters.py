from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.errors import InputError, StateError
from medsynth_core.filters import (
    FILTERS,
    QualityConfig,
    agreement,
    degenerate,
    duplicate,
    fingerprints,
    labels,
    registration,
    sharpness,
    thumbnails,
)
from medsynth_core.filters import noise as grain
from medsynth_core.filters.fingerprints import Fingerprints, first_of_alike
from medsynth_core.filters.registration import Registration
from medsynth_core.filters.spec import quantile_of
from medsynth_core.filters.thumbnails import SIDE, find_copies, first_of_copies, nearest
from medsynth_core.judging.calibrated import bounds_of, save_filter
from medsynth_core.judging.verdicts import Verdict
from medsynth_core.models.condition import Condition
from medsynth_core.models.naturalness import NaturalnessModel
from medsynth_core.synthesis.inputs import PromptRow
from tests.judged import GivenJudging, chain, reasons, training_set

EFFUSION = PromptRow(
    "p0",
    "A left pleural effusion.",
    Condition(({"pathology": "pleural effusion", "anatomy": "pleura", "side": "left", "severity": None},), "frontal"),
)
PHANTOMS = np.stack([phantom_study(0, index, 64).views[0].load() for index in range(40)])
STUDIED = np.stack([phantom_study(1, index, 64).views[0].load() for index in range(400)])


DEGENERATE = chain([degenerate.FILTER], {"clipped": 0.6})


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_is_always_rejected(level: int) -> None:
    blank = np.full((1, 64, 64), level, dtype=np.uint8)
    assert reasons(DEGENERATE, blank, [EFFUSION]) == ["degenerate:blank"]


def test_good_phantoms_pass() -> None:
    assert set(reasons(DEGENERATE, PHANTOMS, [EFFUSION] * len(PHANTOMS))) == {None}


def test_a_copy_of_a_training_image_is_found_in_spite_of_brightness() -> None:
    copied = np.clip(PHANTOMS[3].astype(int) + 12, 0, 255).astype(np.uint8)
    judge = chain([duplicate.FILTER], {"training_copy": 0.03}, GivenJudging(training=training_set(PHANTOMS)))
    fresh = phantom_study(5, 999, 64).views[0].load()
    assert reasons(judge, np.stack([copied, fresh]), [EFFUSION] * 2) == ["duplicate:training", None]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("window", [(0, 0, 64, 64), (0, 0, 60, 60), (3, 2, 63, 62), (4, 3, 61, 60)])
def test_a_copy_is_found_in_spite_of_exposure_crop_and_mirroring(
    window: tuple[int, int, int, int], mirrored: bool
) -> None:
    cropped = Image.fromarray(PHANTOMS[7]).resize((64, 64), Image.Resampling.BILINEAR, box=window)
    copied = np.rint(np.asarray(cropped) * 0.8 + 11).astype(np.uint8)[None, :, :: -1 if mirrored else 1]
    others = np.delete(PHANTOMS, 7, 0)
    assert Registration(thumbnails.thumbnails(PHANTOMS)).distances(copied)[0] < 0.05
    assert Registration(thumbnails.thumbnails(others)).distances(copied)[0] > 0.05


def test_registration_to_itself_is_exact_up_to_rounding_and_needs_a_reference() -> None:
    assert Registration(thumbnails.thumbnails(PHANTOMS)).distances(PHANTOMS).max() < 0.01
    assert Registration(thumbnails.thumbnails(PHANTOMS[:0])).distances(PHANTOMS[:2]).tolist() == [1.0, 1.0]
    assert len(Registration(thumbnails.thumbnails(PHANTOMS)).distances(PHANTOMS[:0])) == 0


def test_registration_does_not_depend_on_blocks_of_references(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Registration(thumbnails.thumbnails(PHANTOMS[:30])).distances(PHANTOMS[30:])
    monkeypatch.setattr(registration, "_REFERENCES_A_BLOCK", 7)
    monkeypatch.setattr(registration, "_IMAGES_A_BLOCK", 3)
    assert np.allclose(Registration(thumbnails.thumbnails(PHANTOMS[:30])).distances(PHANTOMS[30:]), whole)


def test_noise_of_known_deviation_is_estimated() -> None:
    flat = 128 + np.random.default_rng(0).normal(0, 6, (4, 256, 256))
    assert grain.noise(np.rint(flat).astype(np.uint8)) == pytest.approx(6.0, rel=0.03)
    assert grain.noise(np.tile(np.arange(64, dtype=np.uint8), (1, 64, 1))) == pytest.approx(0.0, abs=1e-5)


def test_contrast_changes_no_sharpness() -> None:
    strong = PHANTOMS[:4] // 2 * 2
    assert sharpness.sharpness(strong // 2) == pytest.approx(sharpness.sharpness(strong), rel=1e-4)


BAD = {
    "sharpness:blurred": lambda images: gaussian_filter(images, (0, 1.5, 1.5)),
    "noise:high": lambda images: np.clip(images + np.random.default_rng(0).normal(0, 15, images.shape), 0, 255),
    "anatomy:inverted": lambda images: 255 - images,
    "anatomy:unusual": lambda images: np.roll(images, 9, 2),
    "niqe:unnatural": lambda images: np.random.default_rng(0).integers(0, 255, images.shape),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_images_are_rejected_and_good_ones_pass(reason: str) -> None:
    natural = NaturalnessModel.fit(STUDIED)
    bounds = {
        "sharpness": sharpness.sharpness(STUDIED).min() * 0.9,
        "noise": grain.noise(STUDIED).max() * 1.1,
        "anatomy": 5.0,
        "niqe": natural.scores(STUDIED).max() * 2,
    }
    name = reason.split(":")[0]
    [filter_] = [each for each in FILTERS if each.name == name]
    fitted = {"niqe": {"mean": natural.mean_F, "covariance": natural.covariance_FF}}
    judge = chain([filter_], bounds, GivenJudging(training=training_set(STUDIED)), fitted=fitted)
    bad = BAD[reason](PHANTOMS).astype(np.uint8)
    assert set(reasons(judge, bad, [EFFUSION] * len(bad))) == {reason}
    assert set(reasons(judge, PHANTOMS, [EFFUSION] * len(bad))) == {None}


def test_a_missing_a_contralateral_and_an_unprompted_finding_are_rejected() -> None:
    known = [("pleural effusion", "left"), ("pleural effusion", "right"), ("lung nodule", "left")]
    logits = np.array([[4, -4, -4], [-4, -4, -4], [-4, 4, -4], [4, -4, 4]], dtype=np.float32)
    seen = np.arange(8, dtype=np.float32).reshape(4, 2)
    judging = GivenJudging(logits=lambda images: logits, features=lambda images: seen, labels=known)
    verdicts = chain([labels.FILTER], {"labels": 2.0}, judging).verdicts(PHANTOMS[:4], [EFFUSION] * 4)
    assert [verdict.reasons for verdict in verdicts] == [[], *[["labels:differ"]] * 3]
    assert verdicts[0].scores["score_labels"] == pytest.approx(3 * np.log1p(np.exp(-4)))
    assert [verdict.features is not None and verdict.features.tolist() for verdict in verdicts] == [
        [0.0, 1.0], *[False] * 3
    ], "what is accepted was looked at once"  # fmt: skip


LIMITS = {"copy": 0.001, "copy_features": 0.1}
COPIES = chain([duplicate.FILTER], LIMITS)


def fingerprints_of(picks: list[int], features: list[list[float]] | None = None) -> Fingerprints:
    """Returns the thumbnails of phantoms and given features; without any, features that differ."""
    there = np.arange(len(picks) * 2).reshape(-1, 2) if features is None else features
    known = np.ones(len(picks), dtype=bool)
    return Fingerprints(thumbnails.thumbnails(PHANTOMS[picks]), np.array(there, dtype=np.float16), known)


def test_the_first_of_two_copies_stays() -> None:
    verdicts = [Verdict() for _ in range(3)]
    COPIES.judge_together(verdicts, fingerprints_of([0, 1, 0]))
    assert [verdict.accepted for verdict in verdicts] == [True, True, False]


def test_a_copy_of_an_image_that_was_rejected_stays() -> None:
    verdicts = [Verdict(reasons=["agreement:low"]), Verdict(), Verdict()]
    COPIES.judge_together(verdicts, fingerprints_of([0, 0, 0]))
    assert [verdict.reasons for verdict in verdicts] == [["agreement:low"], [], ["duplicate:release"]]
    nothing = np.zeros((0, 0), dtype=np.float16), np.zeros(1, dtype=bool)
    alone = Fingerprints(thumbnails.thumbnails(PHANTOMS[:1]), *nothing)
    COPIES.judge_together([Verdict(reasons=["degenerate:blank"])], alone)


def test_what_looks_alike_to_the_judge_is_a_copy_too() -> None:
    verdicts = [Verdict() for _ in range(5)]
    features = [[0.0, 0.0], [0.05, 0.0], [0.0, 0.0], [9.0, 0.0], [9.3, 0.0]]
    COPIES.judge_together(verdicts, fingerprints_of([0, 1, 0, 3, 4], features))
    assert [verdict.reasons for verdict in verdicts] == [[], ["duplicate:alike"], ["duplicate:release"], [], []]
    assert "score_release_features" not in verdicts[0].scores, "there is none before it"
    assert verdicts[1].scores["score_release_features"] == pytest.approx(0.05 / np.sqrt(2), rel=0.01)
    assert verdicts[4].scores["score_release_features"] == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_release_is_searched_as_its_shards_are() -> None:
    every = fingerprints_of([0, 1, 0, 3, 4], [[0.0, 0.0], [0.05, 0.0], [0.0, 0.0], [9.0, 0.0], [9.0, 0.1]])
    found = duplicate.FILTER.copies(every, LIMITS, 0)
    assert {row: copy.reason for row, copy in found.items()} == {
        1: "duplicate:alike",
        2: "duplicate:release",
        4: "duplicate:alike",
    }
    assert set(duplicate.FILTER.copies(every, LIMITS, 2)) == {2, 4}, "the first two are the parent's, and stay"
    without = Fingerprints(every.thumbnails, every.features[3:], np.array([False, False, False, True, True]))
    assert set(duplicate.FILTER.copies(without, LIMITS, 0)) == {2, 4}, "an older parent's images have no features"


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
        patch.setattr(thumbnails, "_SETTLED_AT_ONCE", 16)
        patch.setattr(fingerprints, "_ROWS_A_BLOCK", 5)
        copied, _ = first_of_alike(features, bound, n_kept)
    assert set(np.flatnonzero(copied).tolist()) == expected


def test_distance_is_zero_to_itself_and_one_without_reference() -> None:
    thumbs = thumbnails.thumbnails(PHANTOMS)
    distance, row = nearest(thumbs, thumbs)
    assert distance.max() == 0.0
    assert row.tolist() == list(range(len(PHANTOMS)))
    assert nearest(thumbs[:1], thumbs[:0])[0].tolist() == [1.0]


def test_a_rejected_image_is_not_scored_further() -> None:
    seen: list[int] = []

    def scorer(images: np.ndarray, texts: object) -> np.ndarray:
        seen.append(len(images))
        return np.array([0.9, 0.1], dtype=np.float32)

    batch = np.concatenate([np.zeros((1, 64, 64), dtype=np.uint8), PHANTOMS[:2]])
    judge = chain(
        [degenerate.FILTER, agreement.FILTER], {"clipped": 0.6, "agreement": 0.5}, GivenJudging(scores=scorer)
    )
    verdicts = judge.verdicts(batch, [EFFUSION] * 3)
    assert seen == [2]
    assert [v.reasons for v in verdicts] == [["degenerate:blank"], [], ["agreement:low"]]
    assert "score_agreement" not in verdicts[0].scores


def test_the_bound_is_a_quantile_of_held_out_scores() -> None:
    scores = np.arange(100, -1, -1, dtype=float)
    assert quantile_of("score", scores, 0.02, without=0.0) == 2.0
    assert quantile_of("score", scores, 0.02, without=0.0, margin=0.5) == pytest.approx(2.0 - 0.5 * 48)
    assert quantile_of("score", scores, 0.9, without=0.0, margin=0.5) == pytest.approx(90 + 0.5 * 40)
    assert quantile_of("score", np.ones(1), 0.5, without=0.0) == 1.0
    assert quantile_of("score", scores[:0], 0.02, without=-1.0) == -1.0


def test_only_enabled_filters_need_to_be_calibrated(tmp_path: Path) -> None:
    only = QualityConfig(enabled=("sharpness",))
    with pytest.raises(InputError, match=r"sharpness/scores.json: no scores of held-out images .*medsynth calibrate"):
        bounds_of(tmp_path, only)
    save_filter(tmp_path, sharpness.FILTER, {}, {"score_sharpness": np.arange(101.0)})
    assert bounds_of(tmp_path, only) == {"sharpness": 0.5 - 0.5 * 49.5}
    both = {"score_sharpness": np.arange(101.0), "score_sharpness of originals": np.arange(101.0) + 100}
    save_filter(tmp_path, sharpness.FILTER, {}, both)
    assert bounds_of(tmp_path, only) == {"sharpness": pytest.approx(0.8 * 100.5)}, "what originals have is a floor"
    save_filter(tmp_path, sharpness.FILTER, {}, {"score_sharpness": np.arange(101.0)})
    with pytest.raises(InputError, match=r"noise/scores.json"):
        bounds_of(tmp_path, QualityConfig(enabled=("sharpness", "noise")))


def test_a_score_that_is_no_number_is_low_and_breaks_calibration(tmp_path: Path) -> None:
    nan = GivenJudging(scores=lambda images, texts: np.array([np.nan], dtype=np.float32))
    assert reasons(chain([agreement.FILTER], {"agreement": -1.0}, nan), PHANTOMS[:1], [EFFUSION]) == ["agreement:low"]
    save_filter(tmp_path, agreement.FILTER, {}, {"score_agreement": np.array([0.1, np.nan])})
    with pytest.raises(StateError, match=r"agreement/scores.json: 1 of 2 held-out images have a score_agreement"):
        bounds_of(tmp_path, QualityConfig(enabled=("agreement",)))


def test_a_filter_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no filter 'sharpnes'; did you mean 'sharpness'"):
        QualityConfig(enabled=("sharpnes",))


def test_what_is_recorded_leaves_disabled_filters_out() -> None:
    settings = {"enabled": ("noise", "sharpness"), "noise": {"quantile": 0.1}}
    one = QualityConfig.model_validate(settings)
    other = QualityConfig.model_validate({**settings, "niqe": {"quantile": 0.2}})
    assert one.recorded() == other.recorded()
    assert one.recorded()["enabled"] == ["sharpness", "noise"], "in the order in which they run"


def test_every_filter_says_what_the_rest_of_the_house_needs() -> None:
    for each in FILTERS:
        assert each.columns, each.name
        assert all(reason.name.startswith(f"{each.name}:") for reason in each.reasons)
        assert {reason.column for reason in each.reasons} <= {column.name for column in each.columns}
        assert all((column.bound is None) == (column.setting is not None) for column in each.columns)
    names = [column.name for each in FILTERS for column in each.columns]
    assert len(names) == len(set(names))
    assert [each.cost for each in FILTERS] == sorted(each.cost for each in FILTERS)


def greedy(thumbs: np.ndarray, bound: float) -> dict[int, float]:
    """The law itself: an image is a copy when it lies within the bound of an earlier one that isn't."""
    kept: list[int] = []
    copies: dict[int, float] = {}
    for index in range(len(thumbs)):
        distance = float(nearest(thumbs[index : index + 1], thumbs[kept])[0][0])
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
    thumbs = np.clip(centres[random.integers(0, 6, 60)] + random.integers(-4, 5, (60, SIDE * SIDE)), 0, 255)
    thumbs = thumbs.astype(np.uint8)
    expected = greedy(thumbs, bound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thumbnails, "_SETTLED_AT_ONCE", 16)
        assert find_copies(thumbs, bound) == expected
        copies, distances = first_of_copies(thumbs, bound)
    assert {int(i): float(distances[i]) for i in np.flatnonzero(copies)} == expected


def test_one_image_repeated_keeps_one() -> None:
    thumbs = np.repeat(thumbnails.thumbnails(PHANTOMS[:1]), 3000, axis=0)
    assert len(find_copies(thumbs, 0.0)) == 2999
    assert find_copies(thumbs[:0], 0.0) == {}
