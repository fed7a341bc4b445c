"""What a release is worth to a trainer: classifiers trained on real images, on synthetic ones, on both, and on what a
sceptic would try instead, all judged on real images that none of them has seen.

Every training takes the same steps, and the checkpoint with the lowest loss on the validation split is kept. The
generator learnt from all training images; a share of real images here says how many the *classifier* has.

Shapes: N images, L pathologies, S seeds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.settings import UtilityParams
from medsynth_core.evaluation.worth.arms import ARMS, BASELINES, Arm, Given, Images
from medsynth_core.evaluation.worth.trained import logits_of, trained_on
from medsynth_core.hashing import sha256_json
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.release.reader import Release
from medsynth_core.training.pairs import Pairs, read_pairs

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
HELD_OUT, EXTERNAL = "held-out", "external"
_MIN_CASES = 8
"""A pathology is judged when at least so many held-out images have it, and as many don't."""
_BINS = 15
_MEASURED_AS = 1
"""Raised when the same training would get other scores."""
_EXTERNAL_SPLITS = ("train", "judge", "val", "test")

Interval = tuple[float, float, float]
"""Mean, and both ends of its 95 % interval over seeds."""


@dataclass(frozen=True)
class UtilityRow:
    """What classifiers of one kind get.

    Attributes:
        setting: what they learnt from.
        real_share: of the real training patients that they had.
        ratio: synthetic images for each real one; None where all of the release was taken.
        rare: the pathology that was made rare, of which ``auroc`` then is; None: nothing was, and it is the mean.
        tested_on: held-out, the split ``test``; external, another source.
        n_real, n_synthetic: images that the first seed's classifier had.
        auroc: mean over pathologies and seeds.
        interval: 95 % of the mean over seeds, by Student's t.
        gains: by what it is held against, the mean difference of the same seeds and its interval.
        calibration_error: of 15 bins over all pathologies, with its interval.
        by_pathology: AUROC with its interval.
    """

    setting: str
    real_share: float
    ratio: float | None
    rare: str | None
    tested_on: str
    n_real: int
    n_synthetic: int
    auroc: float
    interval: tuple[float, float]
    gains: dict[str, Interval]
    calibration_error: Interval
    by_pathology: dict[str, Interval]


@dataclass(frozen=True)
class _Trial:
    """One kind of classifier, of which there is one a seed."""

    arm: Arm
    share: float
    ratio: float | None
    rare: bool

    @property
    def known_as(self) -> list[Any]:
        """What tells its scores from another's; those of synthetic images alone hold for all shares."""
        ratio = self.ratio if self.arm.mixes or self.arm.copies else None
        return [self.arm.name, self.share if self.arm.real else None, ratio, self.rare]


@dataclass(frozen=True)
class _Scores:
    """Of one classifier on one set.

    Attributes:
        aurocs: by pathology; those that the set can't judge are left out.
    """

    aurocs: dict[str, float]
    calibration_error: float


def measure_utility(params: UtilityParams, paths: Paths, release: Release, progress: Progress) -> list[UtilityRow]:
    """Trains and judges a classifier a setting and seed; what a run that was killed has judged isn't trained again.

    Raises:
        InputError: there are too few images, or there is no such pathology or external source.
    """
    config = params.utility
    data = _Data.read(params, paths, release)
    trials = list(_trials(params, data))
    journal = _Journal(paths.root / ".medsynth" / "utility.jsonl", _key(params, paths, release))
    jobs = len(trials) * config.seeds
    found: dict[int, list[dict[str, _Scores]]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for number, trial in enumerate(trials):
        for seed in range(config.seeds):
            done = number * config.seeds + seed
            progress(done, jobs, f"{trial.arm.name}, {trial.share:.0%} of real, seed {seed}")
            given = data.given(trial, params.seed, seed)
            phases = trial.arm.phases(given)
            if not seed:
                n_made = len(given.made) if trial.arm.mixes else 0 if trial.arm.name in BASELINES else len(given.every)
                sizes[number] = (len(given.real) if trial.arm.real else 0, n_made)

            def judged(phases: Any = phases, seed: int = seed) -> dict[str, _Scores]:
                model = trained_on(phases, data.val, data.names, params, paths, seed)
                return {name: _scores(model, images, data.names) for name, images in data.tests.items()}

            found.setdefault(number, []).append(journal.once([*trial.known_as, seed], judged))
    progress(jobs, jobs)
    journal.drop()
    return [
        _row(trial, name, sizes[number], found[number], _baselines(trials, found, trial), config.rare)
        for number, trial in enumerate(trials)
        for name in data.tests
        if not (trial.rare and name == EXTERNAL and config.rare not in found[number][0][name].aurocs)
    ]


@dataclass(frozen=True)
class _Data:
    """All that is trained and judged on.

    Attributes:
        names: the pathologies.
        patients: of the training images.
        rare: column of the pathology that is made rare.
    """

    names: list[str]
    train: Images
    patients: npt.NDArray[Any]
    val: Images
    tests: dict[str, Images]
    made: Images
    rare: int | None
    rare_films: int

    @classmethod
    def read(cls, params: UtilityParams, paths: Paths, release: Release) -> _Data:
        config = params.utility
        train_pairs, val_pairs, test_pairs = (read_pairs(paths, split) for split in ("train", "val", "test"))
        names = _judged(test_pairs)
        if config.rare is not None and config.rare not in names:
            raise InputError(f"utility.rare={config.rare}: expected one that can be judged: {', '.join(names)}")
        tests = {HELD_OUT: _real([test_pairs], names)}
        if config.external is not None:
            there = _real(_of_another_source(Path(config.external).expanduser(), paths), names)
            if not len(_judgeable(there)):
                raise InputError(f"utility.external: none of {', '.join(names)} can be judged in {config.external}")
            tests[EXTERNAL] = there
        made = _synthetic(release, names, config.max_images)
        rare = None if config.rare is None else names.index(config.rare)
        patients = np.array(train_pairs.patients)
        return cls(
            names, _real([train_pairs], names), patients, _real([val_pairs], names), tests, made, rare,
            config.rare_films,
        )  # fmt: skip

    def given(self, trial: _Trial, seed: int, repetition: int) -> Given:
        """Returns what a trial's classifier of one repetition may take."""
        draw = stream(seed, "utility.synthetic", repetition)
        if trial.rare:
            return self._of_rare(stream(seed, "utility.rare", repetition), draw)
        real = self.train.take(_of_share(self.patients, trial.share, seed, repetition))
        n = len(self.made) if trial.ratio is None else round(trial.ratio * len(real))
        return Given(real, real.repeated(n), self.made.take(draw.permutation(len(self.made))[:n]), self.made)

    def n_real(self, share: float) -> int:
        """Returns about how many real images a share of the patients has."""
        return round(share * len(self.train))

    def _of_rare(self, patients: np.random.Generator, draw: np.random.Generator) -> Given:
        """Returns the training images with few of one pathology, which copies or synthetic images fill up."""
        having = self.train.truth_NL[:, self.rare] > 0
        order = patients.permutation(len(self.train))
        cases = order[having[order]]
        kept = np.sort(np.concatenate([np.flatnonzero(~having), cases[: self.rare_films]]))
        made = self.made.take(np.flatnonzero(self.made.truth_NL[:, self.rare] > 0))
        n = min(len(cases) - self.rare_films, len(made))
        few = self.train.take(cases[: self.rare_films])
        return Given(self.train.take(kept), few.repeated(n), made.take(draw.permutation(len(made))[:n]), made)


def _trials(params: UtilityParams, data: _Data) -> Iterator[_Trial]:
    """Yields what is trained; a ratio for which the release has too few images is told of and left out."""
    config = params.utility
    arms = [arm for arm in ARMS if arm.name in config.arms]
    for share in config.shares:
        n_real = data.n_real(share)
        ratios = [ratio for ratio in config.ratios if round(ratio * n_real) <= len(data.made)]
        for ratio in sorted(set(config.ratios) - set(ratios)):
            log.warning(
                "utility: ratio %g of %d real images is left out: the release has %d images",
                ratio, n_real, len(data.made),
            )  # fmt: skip
        several: Sequence[float | None] = ratios if config.ratios else [None]
        for arm in arms:
            for wanted in several if arm.mixes else (max(ratios, default=None),):
                yield _Trial(arm, share, wanted, rare=False)
    if data.rare is not None:
        for arm in arms:
            if arm.fills:
                yield _Trial(arm, 1.0, None, rare=True)


def _judged(pairs: Pairs) -> list[str]:
    """Returns the pathologies that enough images of a split have and lack."""
    found = [set(condition.pathology) for condition in pairs.conditions]
    every = sorted(set(chain.from_iterable(found)))
    counts = {name: sum(name in each for each in found) for name in every}
    names = [name for name, n in counts.items() if _MIN_CASES <= n <= len(found) - _MIN_CASES]
    if not names:
        raise InputError(
            f"no pathology has {_MIN_CASES} of the {len(found)} held-out images; raise corpus.test_fraction"
        )
    return names


def _truth(pathologies: Sequence[set[str]], names: Sequence[str]) -> npt.NDArray[np.float32]:
    return np.array([[name in each for name in names] for each in pathologies], dtype=np.float32)


def _real(splits: Sequence[Pairs], names: Sequence[str]) -> Images:
    found = [set(condition.pathology) for pairs in splits for condition in pairs.conditions]
    return Images(np.concatenate([pairs.corpus.images(pairs.rows) for pairs in splits]), _truth(found, names))


def _of_another_source(root: Path, paths: Paths) -> list[Pairs]:
    """Returns all images of another workspace."""
    there = Paths(root, {name: root / place.relative_to(paths.root) for name, place in _own(paths).items()})
    for name in ("corpus", "vocabulary"):
        if not there[name].exists():
            raise InputError(f"utility.external: {there[name]} isn't there; run `medsynth {name}` in {root} first")
    pairs = []
    for split in _EXTERNAL_SPLITS:
        try:
            pairs.append(read_pairs(there, split))
        except InputError:  # a source may lack a split
            continue
    if not pairs:
        raise InputError(f"utility.external: {root} has no image of which findings are known")
    theirs, ours = pairs[0].corpus.image_size, read_pairs(paths, "test").corpus.image_size
    if theirs != ours:
        raise InputError(
            f"utility.external: images of {theirs} pixels, here {ours}; set corpus.image_size={ours} in {root} and run "
            f"`medsynth corpus` there"
        )
    return pairs


def _own(paths: Paths) -> dict[str, Path]:
    return {name: paths[name] for name in ("corpus", "vocabulary")}


def _synthetic(release: Release, names: Sequence[str], max_images: int) -> Images:
    shuffled: Iterator[Mapping[str, Any]] = iter(release.stream(shuffle=1000, rank=0, world_size=1))
    items = [item for item, _ in zip(shuffled, range(max_images), strict=False)]
    return Images(
        np.stack([item["image"][0].numpy() for item in items]),
        _truth([set(item["pathology"]) for item in items], names),
    )


def _of_share(patients: npt.NDArray[Any], share: float, seed: int, repetition: int) -> npt.NDArray[np.int64]:
    """Returns the images of a share of the patients, at least one."""
    everyone = np.unique(patients)
    n = max(1, round(share * len(everyone)))
    chosen = stream(seed, "utility.patients", repetition).permutation(everyone)[:n]
    return np.flatnonzero(np.isin(patients, chosen))


def _judgeable(images: Images) -> npt.NDArray[np.int64]:
    """Returns the columns of pathologies that enough images have and lack."""
    having = images.truth_NL.sum(0)
    return np.flatnonzero((having >= _MIN_CASES) & (having <= len(images) - _MIN_CASES))


def _scores(model: nn.Module, images: Images, names: Sequence[str]) -> _Scores:
    logits = logits_of(model, images)
    columns = _judgeable(images)
    error = binary_calibration_error(
        F.sigmoid(logits[:, columns]).ravel(),
        torch.from_numpy(images.truth_NL[:, columns]).ravel().long(),
        n_bins=_BINS,
    )
    scores = logits.numpy()
    return _Scores({names[i]: float(roc_auc_score(images.truth_NL[:, i], scores[:, i])) for i in columns}, float(error))


def _baselines(
    trials: Sequence[_Trial], found: Mapping[int, list[dict[str, _Scores]]], trial: _Trial
) -> dict[str, list[dict[str, _Scores]]]:
    """Returns the scores of what a trial is held against, those of the same real images."""
    return {
        other.arm.name: found[number]
        for number, other in enumerate(trials)
        if other.arm.name in BASELINES and (other.share, other.rare) == (trial.share, trial.rare)
    }


def _row(
    trial: _Trial,
    tested_on: str,
    sizes: tuple[int, int],
    found: Sequence[dict[str, _Scores]],
    baselines: Mapping[str, Sequence[dict[str, _Scores]]],
    rare: str | None,
) -> UtilityRow:
    scores = [each[tested_on] for each in found]

    def means(of: Sequence[_Scores]) -> Floats:
        return np.array([each.aurocs[rare] if trial.rare and rare else np.mean([*each.aurocs.values()]) for each in of])

    own = means(scores)
    mean, *interval = _interval(own)
    gains = {
        name: _interval(own - means([each[tested_on] for each in theirs]))
        for name, theirs in baselines.items()
        if name != trial.arm.name
    }
    return UtilityRow(
        trial.arm.name,
        trial.share,
        trial.ratio if trial.arm.mixes else None,
        rare if trial.rare else None,
        tested_on,
        *sizes,
        auroc=mean,
        interval=(max(interval[0], 0.0), min(interval[1], 1.0)),
        gains=gains,
        calibration_error=_interval(np.array([each.calibration_error for each in scores])),
        by_pathology={name: _interval(np.array([each.aurocs[name] for each in scores])) for name in scores[0].aurocs},
    )


def _interval(values_S: Floats) -> Interval:
    """Returns the mean and its 95 % interval, by Student's t."""
    half = float(stats.t.ppf(0.975, len(values_S) - 1) * stats.sem(values_S))
    mean = float(values_S.mean())
    return round(mean, 4), round(mean - half, 4), round(mean + half, 4)


class _Journal:
    """The scores of classifiers that were judged, so that a kill costs one training."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._known = path, dict[str, dict[str, Any]]()
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        if not lines or lines[0] != key:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{key}\n", "utf-8")
        for line in lines[1:] if lines[:1] == [key] else []:
            try:
                name, scores = json.loads(line)
            except ValueError:  # cut off
                continue
            self._known[name] = scores

    def once(self, of: Sequence[Any], judge: Callable[[], dict[str, _Scores]]) -> dict[str, _Scores]:
        """Returns scores that are known, else those that ``judge`` returns, and keeps them."""
        name = json.dumps(of)
        if name not in self._known:
            self._known[name] = {place: [scores.aurocs, scores.calibration_error] for place, scores in judge().items()}
            with self._path.open("a", encoding="utf-8") as stream_:
                stream_.write(json.dumps([name, self._known[name]]) + "\n")
        return {place: _Scores(*scores) for place, scores in self._known[name].items()}

    def drop(self) -> None:
        """Removes it."""
        self._path.unlink(missing_ok=True)


def _key(params: UtilityParams, paths: Paths, release: Release) -> str:
    """Returns what all scores follow from; which arms, shares and ratios are asked for isn't part of it."""
    asked = params.utility.model_dump(mode="json", include={"steps", "max_images", "network", "external", "rare_films"})
    own = [params.seed, params.precision, params.classifier.model_dump(mode="json"), params.utility.rare]
    return sha256_json([_MEASURED_AS, *own, asked, release.name, paths.digest("corpus"), paths.digest("vocabulary")])
