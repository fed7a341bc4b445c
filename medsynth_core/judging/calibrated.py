"""``models/filters``: what the filters compare with and what held-out images scored, a folder a filter, beside the
labelling judge that they ask.

    judge/                    the labelling judge
    training.safetensors      the training images: thumbnails and features
    <filter>/scores.json      of held-out images, by column
    <filter>/fitted.safetensors   where the filter fits something
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medsynth_core.errors import InputError, StateError
from medsynth_core.filters import FILTERS, QualitySettings
from medsynth_core.filters.spec import OF_ORIGINALS, Arrays, Filter, Scores
from medsynth_core.hashing import DigestCache
from medsynth_core.judging.networks import Judging
from medsynth_core.judging.training_set import CALIBRATE, TrainingSet
from medsynth_core.judging.verdicts import Chain, ReadyFilter
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.judge import Judge

JUDGE = "judge"
"""Folder of the labelling judge in that of the filters: who takes one along has both."""
_SCORES, _FITTED = "scores.json", "fitted.safetensors"


def save_filter(folder: Path, each: Filter[Any, Any], fitted: Arrays, scores: Scores) -> None:
    """Writes into the filters' folder what one compares with, and what held-out images scored, sorted and rounded to
    six digits; where a score doesn't apply, it has none."""
    place = folder / each.name
    place.mkdir(exist_ok=True)
    if fitted:
        save_file(dict(fitted), place / _FITTED)
    may_lack = {column.name: column.may_lack for column in each.columns}
    rounded = {
        name: sorted(
            round(float(value), 6)
            for value in values
            if value == value or not may_lack[name.removesuffix(OF_ORIGINALS)]
        )
        for name, values in scores.items()
        if name.removesuffix(OF_ORIGINALS) in may_lack
    }
    (place / _SCORES).write_text(json.dumps(rounded, sort_keys=True) + "\n", "utf-8")


def bounds_of(folder: Path, quality: QualitySettings) -> dict[str, float]:
    """Returns the bounds of the enabled filters: the configured quantiles of what real held-out images scored.

    Raises:
        InputError: a filter has no scores; says what to run.
        StateError: a score isn't finite, so a model is broken.
    """
    bounds: dict[str, float] = {}
    for each in quality.running():
        scores = _read_scores(folder, each)
        try:
            bounds |= each.bounds(scores, quality.of(each.name), quality.margin)
        except KeyError as error:
            raise InputError(
                f"{folder / each.name / _SCORES}: no {error.args[0]} of held-out images; run `medsynth calibrate`"
            ) from error
        except StateError as error:
            raise StateError(f"{folder / each.name / _SCORES}: {error}") from error
    return bounds


def load_chain(
    folder: Path, quality: QualitySettings, bounds: Mapping[str, float], alignment: AlignmentModel, image_size: int
) -> Chain:
    """Returns the enabled filters, ready to judge on the device of ``alignment``.

    Raises:
        InputError: the judge, the training images or what a filter compares with is missing or damaged.
    """
    judging = load_judging(folder, alignment, image_size)
    ready = [
        ReadyFilter(each, quality.of(each.name), _model(folder, each, judging.training)) for each in quality.running()
    ]
    return Chain(ready, bounds, judging)


def load_judging(folder: Path, alignment: AlignmentModel, image_size: int) -> Judging:
    """Returns the networks that the filters ask.

    Raises:
        InputError: the judge or the training images are missing, or don't belong together.
    """
    judge, training = load_judge(folder), TrainingSet.load(folder)
    width = judge.net.config.channels[-1]
    if training.raw_features.shape[1:] != (width,):
        raise InputError(
            f"{folder}: {training.raw_features.shape[1:]} features a training image, the judge has {width}; run "
            f"`medsynth calibrate` again"
        )
    return Judging(judge, alignment, training, image_size)


def load_judge(folder: Path) -> Judge:
    """Returns the labelling judge that the filters ask.

    Raises:
        InputError: there is none.
    """
    return Judge.load(folder / JUDGE)


def digest_of(folder: Path, running: Sequence[Filter[Any, Any]], digests: DigestCache) -> str:
    """Returns the hex SHA-256 of all that these filters compare with; of other filters nothing counts.

    Raises:
        InputError: nothing is calibrated there.
    """
    others = {each.name for each in FILTERS} - {each.name for each in running}
    return _digest(folder, digests, lambda part: part not in others)


def judge_digest(folder: Path, digests: DigestCache) -> str:
    """Returns the hex SHA-256 of the labelling judge and the training images: features of the same one are comparable.

    Raises:
        InputError: they aren't there.
    """
    return _digest(folder, digests, lambda part: part in {JUDGE, TrainingSet.FILE})


def _digest(folder: Path, digests: DigestCache, counts: Callable[[str], bool]) -> str:
    if not (folder / TrainingSet.FILE).is_file():
        raise InputError(f"{folder}: no calibrated filters there; {CALIBRATE}")
    return digests.tree(folder, lambda path: counts(path.relative_to(folder).parts[0]))


def _read_scores(folder: Path, each: Filter[Any, Any]) -> dict[str, npt.NDArray[np.float64]]:
    path = folder / each.name / _SCORES
    try:
        saved = json.loads(path.read_text("utf-8"))
        return {name: np.array(values, dtype=np.float64) for name, values in saved.items()}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no scores of held-out images (filter {each.name} is new here, or the models are of an earlier "
            f"version); run `medsynth calibrate`"
        ) from error


def _model(folder: Path, each: Filter[Any, Any], training: TrainingSet) -> Any:
    path = folder / each.name / _FITTED
    try:
        return each.model(load_file(path) if path.is_file() else {}, training)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: of no use to filter {each.name} ({reason}); run `medsynth calibrate`") from error
