"""Near-duplicates: copies of training images, and copies inside a release.

Training images are compared as the tokenizer renders them, since a generator that has memorised one emits its codes: a
copy then lies at 0, where the original lies at up to 0.03, farther than the next patient. They are compared by
registration, so that exposure, a crop or mirroring doesn't hide a copy; its distance has a bound of its own.

Images of a release are compared by their fingerprints. One that is a copy by thumbnails is never compared by features,
so each measure keeps the earlier of two images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.fingerprints import Copy, Fingerprints, first_of_alike, nearest_features
from medsynth_core.filters.registration import Registration
from medsynth_core.filters.spec import (
    Arrays,
    Column,
    Context,
    Filter,
    Prompt,
    Reason,
    Scores,
    Training,
    TrainingCopies,
    percent,
    quantile_of,
)
from medsynth_core.filters.thumbnails import Images, find_copies, first_of_copies, nearest

_TRAINING = "score_training_distance"
_TRAINING_COPY = "duplicate:training"
_TRAINING_BOUND = "training_copy"
_THUMBNAILS, _FEATURES = "score_release_distance", "score_release_features"
_RELEASE, _ALIKE = "duplicate:release", "duplicate:alike"


class DuplicateSettings(Section):
    """Near-duplicates; bounds have no margin."""

    training_quantile: Fraction = 0.002
    """An image is a copy of a training image when it comes, registered, nearer to it than all but this share of real
    held-out images come to their nearest one."""
    release_quantile: Fraction = 0.01
    """An image is a copy of another image of the release when it comes nearer to it than all but this share of real
    held-out images come to their nearest training image."""


class Duplicate(Filter[DuplicateSettings, Registration]):
    """Rejects near-copies of training images, also brightened, cropped or mirrored ones, and of images made before."""

    name = "duplicate"
    version = 1
    cost = 3.0
    compares = True
    training_copies = TrainingCopies(
        _TRAINING_COPY, _TRAINING_BOUND, lambda images_u8, training: Registration(training).distances(images_u8)
    )
    settings = DuplicateSettings
    columns = (
        Column(
            _TRAINING,
            "distance to the nearest training image, registered, 0..1",
            "distance to training images",
            _TRAINING_BOUND,
            3,
            orders=(("up", "nearest to training first"),),
        ),
        Column(
            _THUMBNAILS,
            "distance to the nearest earlier image of the shard, 0..1",
            "distance to the nearest earlier image here",
            "copy",
            3,
            may_lack=True,
        ),
        Column(
            _FEATURES,
            "distance to the nearest earlier image of the shard in ``features``",
            "distance to the nearest earlier image here by the judge",
            "copy_features",
            may_lack=True,
        ),
    )
    reasons = (
        Reason(_TRAINING_COPY, "copy of a training image", _TRAINING),
        Reason(_RELEASE, "copy of an image of the release", _THUMBNAILS),
        Reason(_ALIKE, "almost the same findings in the same places as an image of the release", _FEATURES),
    )

    def model(self, fitted: Arrays, training: Training) -> Registration:
        return Registration(training.thumbnails)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: Registration) -> Scores:
        """Score: distance to the nearest training image, registered."""
        return {_TRAINING: model.distances(images_u8)}

    def calibrate(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: Registration) -> Scores:
        """Held-out images are to training images what images of a release are to each other: of other patients."""
        training = context.training
        return {
            **self.measure(images_u8, prompts, context, model),
            _THUMBNAILS: nearest(context.thumbnails, training.thumbnails)[0],
            _FEATURES: nearest_features(context.look()[1], training.features),
        }

    def bounds(self, scores: Scores, settings: DuplicateSettings, margin: float) -> dict[str, float]:
        of_training, of_release = settings.training_quantile, settings.release_quantile
        return {
            _TRAINING_BOUND: quantile_of(_TRAINING, scores[_TRAINING], of_training, without=0.0),
            "copy": quantile_of(_THUMBNAILS, scores[_THUMBNAILS], of_release, without=0.0),
            "copy_features": quantile_of(_FEATURES, scores[_FEATURES], of_release, without=0.0),
        }

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: DuplicateSettings) -> list[str | None]:
        return [_TRAINING_COPY if d <= bounds[_TRAINING_BOUND] else None for d in scores[_TRAINING]]

    def judge_together(
        self, fingerprints: Fingerprints, accepted: npt.NDArray[np.bool_], bounds: Mapping[str, float]
    ) -> tuple[Scores, dict[int, Copy]]:
        scores = {name: np.full(len(accepted), np.nan) for name in (_THUMBNAILS, _FEATURES)}
        rows = np.flatnonzero(accepted)
        copied, distances = first_of_copies(fingerprints.thumbnails[rows], bounds["copy"])
        scores[_THUMBNAILS][rows] = distances
        copies = {int(row): Copy(_RELEASE, {}) for row in rows[copied]}
        rows = rows[~copied & fingerprints.has_features[rows]]
        copied, distances = first_of_alike(fingerprints.features_of(rows), bounds["copy_features"])
        scores[_FEATURES][rows] = np.where(np.isfinite(distances), distances, np.nan)
        return scores, copies | {int(row): Copy(_ALIKE, {}) for row in rows[copied]}

    def copies(self, fingerprints: Fingerprints, bounds: Mapping[str, float], n_kept: int) -> dict[int, Copy]:
        found = {
            row: Copy(_RELEASE, {_THUMBNAILS: distance})
            for row, distance in find_copies(fingerprints.thumbnails, bounds["copy"], n_kept).items()
        }
        left = fingerprints.has_features.copy()
        left[list(found)] = False
        rows = np.flatnonzero(left)
        kept = int(left[:n_kept].sum())
        copied, distances = first_of_alike(fingerprints.features_of(rows), bounds["copy_features"], kept)
        for place in np.flatnonzero(copied):
            found[int(rows[place])] = Copy(_ALIKE, {_FEATURES: float(distances[place])})
        return found

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            "Near-duplicates were rejected: a training image, also brightened, mirrored or cropped by up to an eighth "
            f"of its side, within {bounds[_TRAINING_BOUND]:.4f} (share of the deviation left after registering, 0..1), "
            f"nearer than all but {percent(settings['training_quantile'])} of real held-out images come to one; or an "
            f"earlier image here within {bounds['copy']:.4f} (mean absolute difference of 16 x 16 thumbnails, 0..1) or "
            f"{bounds['copy_features']:.3f} (features of the labelling judge, standard deviations), nearer than all "
            f"but {percent(settings['release_quantile'])} of real held-out images come to a training image. Smaller "
            "crops and copied details pass."
        )


FILTER = Duplicate()
