"""The metrics by closed forms and against their reference implementations."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from pytorch_fid import fid_score
from scipy.linalg import sqrtm
from torchmetrics.image.kid import poly_mmd

from medsynth_core.evaluation.figures import (
    Features,
    Figure,
    feature_figures,
    naturalness_figure,
    similarity_figure,
)
from medsynth_core.evaluation.image_sets import ImageSet
from medsynth_core.evaluation.metrics.frechet import Moments, frechet_distance
from medsynth_core.evaluation.metrics.kernel import kernel_distance, squared_discrepancy
from medsynth_core.evaluation.metrics.similarity import similarities
from medsynth_core.evaluation.settings import EvaluationConfig
from medsynth_core.fidelity.neighbours import neighbourhoods


def normal(seed: int, n: int, width: int = 8, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (n, width))


def test_the_distance_of_two_gaussians_is_the_closed_form() -> None:
    a, b = Moments.of(normal(0, 40_000)), Moments.of(normal(1, 40_000, mean=0.5, deviation=2.0))
    assert frechet_distance(a, b) == pytest.approx(8 * (0.5**2 + (2.0 - 1.0) ** 2), rel=0.02)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_the_distance_is_pytorch_fids(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-fid 0.3 asks for the root's error too, which SciPy gives up from 1.18 on."""
    monkeypatch.setattr(fid_score.linalg, "sqrtm", lambda matrix, disp=True: (sqrtm(matrix), None))
    mixing = normal(2, 24, 24)
    a, b = normal(3, 300, 24) @ mixing, normal(4, 200, 24, 0.3) @ mixing
    moments = [value for each in (a, b) for value in (each.mean(0), np.cov(each, rowvar=False))]
    expected = fid_score.calculate_frechet_distance(*moments)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("cuts", [[1], [1, 2, 3], [700], [10, 10, 1500]])
def test_moments_of_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    features = normal(5, 3000, mean=100.0).astype(np.float32)
    moments = reduce(add, [Moments.of(part) for part in np.split(features, cuts) if len(part)])
    assert moments.n == 3000
    np.testing.assert_allclose(moments.mean_F, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(float), rowvar=False), rtol=1e-9, atol=1e-9)


def test_a_mean_of_shards_distances_would_be_another_number() -> None:
    whole, reference = normal(6, 400), Moments.of(normal(7, 400))
    shards = [frechet_distance(Moments.of(part), reference) for part in np.split(whole, 10)]
    assert np.mean(shards) > 3 * frechet_distance(Moments.of(whole), reference)


def test_the_discrepancy_is_torchmetrics() -> None:
    a, b = normal(8, 60), normal(9, 60, mean=0.2)
    expected = poly_mmd(torch.from_numpy(a), torch.from_numpy(b), 3, None, 1.0)
    assert squared_discrepancy(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_the_discrepancy_of_equal_distributions_is_zero_on_average() -> None:
    values = [squared_discrepancy(normal(2 * seed, 20), normal(2 * seed + 1, 20)) for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8, "a biased estimate is never negative"


def test_the_interval_holds_zero_when_sets_are_exchangeable_and_not_when_one_is_shifted() -> None:
    def found(shift: float, seed: int) -> tuple[float, float]:
        a, b = normal(3 * seed, 200), normal(3 * seed + 1, 150, mean=shift)
        return kernel_distance(a, b, np.random.default_rng(seed), 50, 1000)

    equal, shifted = [found(0.0, seed) for seed in range(20)], [found(0.4, seed) for seed in range(20)]
    assert sum(abs(value) < 1.96 * error for value, error in equal) >= 18
    assert all(value > 1.96 * error for value, error in shifted)
    spread = np.std([value for value, _ in shifted], ddof=1)
    assert 0.5 < np.mean([error for _, error in shifted]) / spread < 2.0, "the error is of the mean, not of a subset"


def test_a_small_subset_estimates_the_same() -> None:
    a, b = normal(0, 2000), normal(1, 1500, mean=0.4)
    (half, half_error), (small, error) = (
        kernel_distance(a, b, np.random.default_rng(0), 60, size) for size in (10_000, 100)
    )
    assert small == pytest.approx(half, abs=3 * (error + half_error))
    assert 0.4 < error / half_error < 2.5


@pytest.mark.parametrize(("n", "m", "k"), [(300, 400, 5), (1100, 700, 3), (40, 25, 5)])
def test_neighbourhoods_are_those_of_the_prdc_package(n: int, m: int, k: int) -> None:
    real, fake = normal(10, n), normal(11, m, mean=0.3, deviation=0.8)
    ours, theirs = asdict(neighbourhoods(real, fake, k)), compute_prdc(real, fake, k)
    assert ours == pytest.approx({name: float(value) for name, value in theirs.items()})
    assert 0 < ours["recall"] < ours["precision"] < 1, "narrower images are nearer, and fewer real ones are near them"


def noise(seed: int, n: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


@pytest.mark.parametrize("side", [16, 32, 64, 176])
def test_equal_images_are_alike_and_others_less(side: int) -> None:
    images = noise(0, 3, side)
    np.testing.assert_allclose(similarities(images, images), 1.0, atol=1e-5)
    brighter = (images // 2 + 60).astype(np.uint8)
    assert (similarities(images, brighter) < 0.99).all()
    assert (similarities(images, noise(1, 3, side)) < similarities(images, brighter)).all()


CONFIG = EvaluationConfig(kid_subsets=10, similarity_pairs=4)


def sides(n: int, n_training: int, n_held_out: int) -> tuple[Features, list[np.ndarray]]:
    parts = [normal(seed, rows).astype(np.float32) for seed, rows in enumerate((n, n_training, n_held_out))]
    return Features("net", *parts), [np.arange(len(part)) for part in parts]


def by_metric(figures: Iterator[Figure]) -> dict[str, Figure]:
    return {figure.metric: figure for figure in figures}


def test_figures_of_exchangeable_images_are_those_of_real_ones() -> None:
    found = by_metric(feature_figures(*_arguments(60, 240, 80)))
    for metric in ("fid", "precision", "recall", "density", "coverage"):
        figure = found[metric]
        assert figure.value == pytest.approx(figure.real, rel=0.35), metric
        assert figure.real_low < figure.real < figure.real_high  # type: ignore[operator]
    kid = found["kid"]
    assert kid.low < 0 < kid.high  # type: ignore[operator]
    assert {(figure.n, figure.n_held_out) for figure in found.values()} == {(60, 80)}


def test_synthetic_images_are_cut_to_the_number_of_training_images() -> None:
    found = by_metric(feature_figures(*_arguments(200, 50, 80)))
    assert found["fid"].n == 50
    assert found["fid"].real is not None
    assert found["fid"].real_low is None, "one draw has no range"


@pytest.mark.parametrize("numbers", [(19, 100, 100), (100, 19, 100), (100, 100, 19), (100, 0, 100), (0, 0, 0)])
def test_few_images_give_a_reason_instead_of_a_figure(numbers: tuple[int, int, int]) -> None:
    found = by_metric(feature_figures(*_arguments(*numbers)))
    assert len(found) == 6
    for figure in found.values():
        assert (figure.value, figure.real, figure.reason) == (None, None, "fewer than 20 images")


def test_covariances_without_rank_give_no_distance() -> None:
    wide = Features("net", *(normal(seed, 60, 60) for seed in range(3)))
    found = by_metric(feature_figures(wide, None, [np.arange(60)] * 3, CONFIG, 0))
    assert found["fid"].reason == "no more images than features (60)"
    assert found["kid"].value is not None


def _arguments(*numbers: int) -> tuple[Features, str, list[np.ndarray], EvaluationConfig, int]:
    features, places = sides(*numbers)
    return features, "effusion", places, CONFIG, 0


def image_set(images: np.ndarray, label: str) -> ImageSet:
    findings = [[{"pathology": label, "anatomy": None, "side": "none"}]] * len(images)
    return ImageSet(findings, ["p"] * len(images), lambda places: images[places])


def test_a_collapsed_class_is_more_alike_than_the_real_one() -> None:
    varied = image_set(noise(2, 30, 32), "nodule")
    collapsed = image_set(np.repeat(noise(3, 1, 32), 24, 0), "nodule")
    figure = similarity_figure(collapsed, varied, "nodule", CONFIG, 0)
    assert figure.value == pytest.approx(1.0, abs=1e-5)
    assert figure.real < 0.3  # type: ignore[operator]
    assert similarity_figure(collapsed, varied, "mass", CONFIG, 0).reason == "fewer than 20 images"


def test_naturalness_has_an_interval_or_a_reason() -> None:
    scores = normal(0, 100, 1)[:, 0] + 5
    figure = naturalness_figure(scores, scores[:50] - 1, None, CONFIG)
    assert figure.value == pytest.approx(scores.mean())
    assert figure.high - figure.low == pytest.approx(0.39, abs=0.05)  # type: ignore[operator]
    unfitted = naturalness_figure(np.full(100, np.nan), scores, None, CONFIG)
    assert (unfitted.value, unfitted.reason) == (None, "too few training images to fit it on")
