import numpy as np
import pytest

from medsynth_core.config.tree import QualityConfig
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.quality.agreement import AgreementFilter, calibrate
from medsynth_core.quality.degenerate import DegenerateFilter
from medsynth_core.quality.duplicate import ShardCopyFilter, TrainingCopyFilter, nearest, signatures
from medsynth_core.quality.filters import judge_images

PHANTOMS = np.stack([phantom_study(0, index, 64).views[0].load() for index in range(40)])


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_is_always_rejected(level: int) -> None:
    blank = np.full((1, 64, 64), level, dtype=np.uint8)
    verdict = judge_images([DegenerateFilter(QualityConfig())], blank, ["x"])[0]
    assert verdict.reasons == ["degenerate:blank"]


def test_good_phantoms_pass() -> None:
    verdicts = judge_images([DegenerateFilter(QualityConfig())], PHANTOMS, ["x"] * len(PHANTOMS))
    assert all(verdict.accepted for verdict in verdicts)


def test_a_copy_of_a_training_image_is_found_in_spite_of_brightness() -> None:
    copied = np.clip(PHANTOMS[3].astype(int) + 12, 0, 255).astype(np.uint8)
    judge = TrainingCopyFilter(signatures(PHANTOMS), QualityConfig().training_copy_distance)
    fresh = phantom_study(5, 999, 64).views[0].load()
    reasons = [j.reason for j in judge.judge(np.stack([copied, fresh]), ["x", "x"])]
    assert reasons == ["duplicate:training", None]


def test_the_first_of_two_copies_stays() -> None:
    verdicts = judge_images([ShardCopyFilter(0.001)], PHANTOMS[[0, 1, 0]], ["x"] * 3)
    assert [verdict.accepted for verdict in verdicts] == [True, True, False]


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
    verdicts = judge_images([DegenerateFilter(QualityConfig()), AgreementFilter(scorer, 0.5)], batch, ["x"] * 3)
    assert seen == [2]
    assert [v.reasons for v in verdicts] == [["degenerate:blank"], [], ["agreement:low"]]
    assert "score_agreement" not in verdicts[0].scores


def test_the_bound_is_a_quantile_of_real_pairs() -> None:
    assert calibrate(np.arange(101, dtype=np.float32), 0.02) == 2.0
    assert calibrate(np.zeros(0, dtype=np.float32), 0.5) == -1.0
