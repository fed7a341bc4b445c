"""The figures of a release against held-out real images, each beside what real images get in its place.

Shapes: N images, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.evaluation.image_sets import ImageSet
from medsynth_core.evaluation.metrics.frechet import Moments, frechet_distance
from medsynth_core.evaluation.metrics.kernel import kernel_distance
from medsynth_core.evaluation.metrics.similarity import similarities
from medsynth_core.evaluation.settings import EvaluationConfig
from medsynth_core.fidelity.neighbours import neighbourhoods
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
_Z = 1.96
_OF_FEATURES = ("fid", "kid", "precision", "recall", "density", "coverage")
_DRAWS = 5


@dataclass(frozen=True)
class Figure:
    """One figure of all images, or of one finding.

    Attributes:
        extractor: network of the features, or a judge and what it judges; None where pixels are judged.
        label: pathology, or the place of one; None of all images.
        n: synthetic images that enter; of a judge's figure of one finding, those that have it.
        n_held_out: held-out images.
        value: None when there is none for ``reason``.
        low, high: 95 % interval, where the figure has one.
        real: the same figure of real images. Where features are compared: of ``n`` training images in place of the
            synthetic ones, mean of up to five disjoint draws; else of the held-out images.
        real_low, real_high: smallest and largest of those draws, None of a single one; of a judge's figure its
            95 % interval.
    """

    metric: str
    extractor: str | None
    label: str | None
    n: int
    n_held_out: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    real: float | None = None
    real_low: float | None = None
    real_high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Features:
    """Features float32 [N, F] of the three sides by one extractor."""

    extractor: str
    synthetic: Floats
    training: Floats
    held_out: Floats


def feature_figures(
    features: Features, label: str | None, places: Sequence[npt.NDArray[np.int64]], config: EvaluationConfig, seed: int
) -> Iterator[Figure]:
    """Yields FID, KID, precision, recall, density and coverage of the images at ``places``.

    The synthetic side is cut to the number of training images if need be, so that ``real`` is of the same numbers.

    Args:
        places: of synthetic, training and held-out images.
    """
    n = min(len(places[0]), len(places[1]))
    held_out = features.held_out[places[2]]
    about = (features.extractor, label, n, len(held_out))
    if few := _too_few(n, len(held_out), config):
        yield from (Figure(metric, *about, reason=few) for metric in _OF_FEATURES)
        return
    draws = [features.training[places[1][at * n : at * n + n]] for at in range(min(_DRAWS, len(places[1]) // n))]
    ours, error = _compared(features.synthetic[places[0][:n]], held_out, config, seed)
    theirs = [_compared(draw, held_out, config, seed)[0] for draw in draws]
    for metric in _OF_FEATURES:
        if metric not in ours:
            yield Figure(metric, *about, reason=f"no more images than features ({held_out.shape[1]})")
            continue
        value, real = ours[metric], [of_draw[metric] for of_draw in theirs]
        low, high = (value - _Z * error, value + _Z * error) if metric == "kid" else (None, None)
        real_low, real_high = (min(real), max(real)) if len(real) > 1 else (None, None)
        yield Figure(metric, *about, value, low, high, float(np.mean(real)), real_low, real_high)


def _compared(side: Floats, held_out: Floats, config: EvaluationConfig, seed: int) -> tuple[dict[str, float], float]:
    """Returns the figures by name, without FID where covariances would lack rank, and KID's standard error."""
    draw = stream(seed, "evaluation.kid_subsets")
    kid, error = kernel_distance(side, held_out, draw, config.kid_subsets, config.kid_subset_size)
    figures = {"kid": kid, **asdict(neighbourhoods(held_out, side, config.neighbours))}
    if min(len(side), len(held_out)) > held_out.shape[1]:
        figures["fid"] = frechet_distance(Moments.of(side), Moments.of(held_out))
    return figures, error


def naturalness_figure(synthetic: Floats, held_out: Floats, label: str | None, config: EvaluationConfig) -> Figure:
    """Returns the mean NIQE of images, from their scores [N]; NaN where no model could be fitted."""
    about = ("niqe", None, label, len(synthetic), len(held_out))
    if few := _too_few(len(synthetic), len(held_out), config):
        return Figure(*about, reason=few)
    if np.isnan(synthetic).any():
        return Figure(*about, reason="too few training images to fit it on")
    return Figure(*about, *_mean_with_interval(synthetic), float(held_out.mean()))


def similarity_figure(
    synthetic: ImageSet,
    held_out: ImageSet,
    label: str | None,
    config: EvaluationConfig,
    seed: int,
) -> Figure:
    """Returns the mean MS-SSIM of two images of a class; every image is in one pair at most."""
    places = synthetic.places(label), held_out.places(label)
    about = ("ms_ssim", None, label, len(places[0]), len(places[1]))
    if few := _too_few(len(places[0]), len(places[1]), config):
        return Figure(*about, reason=few)

    def of_pairs(images: ImageSet, places: npt.NDArray[np.int64]) -> Floats:
        order = stream(seed, "evaluation.similarity_pairs").permutation(places)
        n_pairs = min(len(order) // 2, config.similarity_pairs)
        one, other = order[:n_pairs], order[n_pairs : 2 * n_pairs]
        steps = range(0, n_pairs, config.batch_size)
        parts = [
            similarities(images.read(one[at : at + config.batch_size]), images.read(other[at : at + config.batch_size]))
            for at in steps
        ]
        return np.concatenate(parts)

    ours, theirs = of_pairs(synthetic, places[0]), of_pairs(held_out, places[1])
    return Figure(*about, *_mean_with_interval(ours), float(theirs.mean()))


def _too_few(n: int, n_held_out: int, config: EvaluationConfig) -> str | None:
    return f"fewer than {config.min_images} images" if min(n, n_held_out) < config.min_images else None


def _mean_with_interval(values: Floats) -> tuple[float, float, float]:
    mean, half = float(values.mean()), float(_Z * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
