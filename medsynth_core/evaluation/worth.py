"""What a release is worth to a trainer: classifiers trained on real images, on synthetic ones, and on both, all judged
on real held-out images.

Every training takes the same steps, and the checkpoint with the lowest loss on the validation split is kept. The
generator learnt from all training images; a share of real images here says how many the *classifier* has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medsynth_core.config import Paths, config_digest
from medsynth_core.errors import InputError
from medsynth_core.evaluation.settings import UtilityParams
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.settings import OptimiserConfig
from medsynth_core.progress import Progress, silent
from medsynth_core.random import seed_of, stream
from medsynth_core.release.reader import Release
from medsynth_core.training.classifier import worn_in_training
from medsynth_core.training.finish import checkpoint_path, drop_checkpoint
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs

SETTINGS = ("real", "synthetic", "real + synthetic", "synthetic, then real")
_MIN_CASES = 8
"""A pathology is judged when at least so many held-out images have it, and as many don't."""


@dataclass(frozen=True)
class Images:
    """Images with their pathologies.

    Attributes:
        pixels_NHW: uint8.
        truth_NL: float32, 1 where an image has a pathology.
    """

    pixels_NHW: npt.NDArray[np.uint8]
    truth_NL: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pixels_NHW)

    def __add__(self, other: Images) -> Images:
        return Images(
            np.concatenate([self.pixels_NHW, other.pixels_NHW]), np.concatenate([self.truth_NL, other.truth_NL])
        )

    def take(self, picks: npt.NDArray[np.int64]) -> Images:
        """Returns some of them."""
        return Images(self.pixels_NHW[picks], self.truth_NL[picks])

    def inputs(self, picks: npt.NDArray[np.int64] | slice, device: torch.device) -> Tensor:
        """Returns pixels on a device, float32 [n, 1, H, W] in [-1, 1]."""
        return to_inputs(self.pixels_NHW[picks], device)


@dataclass(frozen=True)
class UtilityRow:
    """One setting at one share of the real training images.

    Attributes:
        n_real, n_synthetic: images that the classifier saw (the first seed's).
        auroc: mean over pathologies and seeds.
        interval: 95 % of the mean over seeds, by Student's t.
        gain: mean difference to ``real`` of the same seeds, and its interval; None for ``real`` itself.
        by_pathology: mean AUROC over seeds.
    """

    setting: str
    real_share: float
    n_real: int
    n_synthetic: int
    auroc: float
    interval: tuple[float, float]
    gain: tuple[float, float, float] | None
    by_pathology: dict[str, float]


def measure_utility(params: UtilityParams, paths: Paths, release: Release, progress: Progress) -> list[UtilityRow]:
    """Trains and judges every setting; ``synthetic, then real`` spends half of the steps on each.

    Raises:
        InputError: there are too few images.
    """
    shares, seeds, steps = params.utility.shares, params.utility.seeds, params.utility.steps
    train_pairs, val_pairs, test_pairs = (read_pairs(paths, split) for split in ("train", "val", "test"))
    names = _judged(test_pairs)
    train_images, val_images, test_images = (_real(pairs, names) for pairs in (train_pairs, val_pairs, test_pairs))
    made = _synthetic(release, names, params.utility.max_images)
    patients = np.array(train_pairs.patients)
    settings = params.classifier.train.model_copy(
        update={"steps": steps, "warmup_steps": max(1, steps // 5), "checkpoint_every": max(1, steps // 8)}
    )
    jobs = len(shares) * seeds * len(SETTINGS)
    done = 0
    scores: dict[tuple[str, float], list[npt.NDArray[np.float64]]] = {}
    sizes: dict[tuple[str, float], tuple[int, int]] = {}
    for share in shares:
        for seed in range(seeds):
            real = train_images.take(_of_share(patients, share, params.seed, seed))
            for setting in SETTINGS:
                progress(done, jobs, f"{setting}, {share:.0%} of real, seed {seed}")
                key = (setting, share if setting != "synthetic" else shares[0])
                sizes.setdefault(
                    (setting, share),
                    (0 if setting == "synthetic" else len(real), 0 if setting == "real" else len(made)),
                )
                if setting != "synthetic" or share == shares[0]:
                    phases = _phases(setting, real, made, settings)
                    model = _trained(params, paths, phases, val_images, names, seed)
                    scores.setdefault(key, []).append(_auroc(model, test_images))
                done += 1
    progress(jobs, jobs)
    return [
        _row(setting, share, sizes[setting, share], scores, shares[0], names)
        for share in shares
        for setting in SETTINGS
    ]


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


def _real(pairs: Pairs, names: Sequence[str]) -> Images:
    found = [set(condition.pathology) for condition in pairs.conditions]
    return Images(pairs.corpus.images(pairs.rows), _truth(found, names))


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


def _phases(setting: str, real: Images, made: Images, config: OptimiserConfig) -> list[tuple[Images, OptimiserConfig]]:
    if setting == "synthetic, then real":
        half = config.model_copy(update={"steps": config.steps // 2})
        return [(made, half), (real, half.model_copy(update={"learning_rate": config.learning_rate / 4}))]
    return [({"real": real, "synthetic": made, "real + synthetic": real + made}[setting], config)]


def _trained(
    params: UtilityParams,
    paths: Paths,
    phases: Sequence[tuple[Images, OptimiserConfig]],
    held_out: Images,
    names: Sequence[str],
    seed: int,
) -> FindingClassifier:
    accelerator = make_accelerator(params)
    torch.manual_seed(seed_of(seed, "utility"))
    model = FindingClassifier(params.classifier, [(name, "any") for name in names]).to(accelerator.device)
    held_out_truth = torch.from_numpy(held_out.truth_NL)
    for number, (images, settings) in enumerate(phases):
        truth = torch.from_numpy(images.truth_NL)

        def loss(module: nn.Module, batch: Batch, images: Images = images, truth: Tensor = truth) -> Losses:
            pixels = images.inputs(batch.picks, accelerator.device)
            logits = module(worn_in_training(pixels, batch)).float()
            return {"total": F.binary_cross_entropy_with_logits(logits, truth[batch.picks].to(accelerator.device))}

        checkpoint = checkpoint_path(paths, "utility")
        drop_checkpoint(checkpoint)
        train(
            [Objective("utility", model, loss)],
            len(images),
            settings,
            accelerator=accelerator,
            key=config_digest(number, seed, settings),
            seed=seed,
            checkpoint=checkpoint,
            progress=silent,
            validate=lambda: float(F.binary_cross_entropy_with_logits(_logits(model, held_out), held_out_truth)),
        )
    return model


@torch.inference_mode()
def _logits(model: FindingClassifier, images: Images, batch_size: int = 128) -> Tensor:
    device = next(model.parameters()).device
    starts = range(0, len(images), batch_size)
    return torch.cat([model(images.inputs(slice(i, i + batch_size), device)).float().cpu() for i in starts])


def _auroc(model: FindingClassifier, images: Images) -> npt.NDArray[np.float64]:
    scores = _logits(model, images).numpy()
    return np.array([roc_auc_score(images.truth_NL[:, i], scores[:, i]) for i in range(scores.shape[1])])


def _row(
    setting: str,
    share: float,
    sizes: tuple[int, int],
    scores: Mapping[tuple[str, float], Sequence[npt.NDArray[np.float64]]],
    first: float,
    names: Sequence[str],
) -> UtilityRow:
    found = np.stack(scores[setting, share if setting != "synthetic" else first])
    means = found.mean(1)
    gain = None
    if setting != "real":
        difference = means - np.stack(scores["real", share]).mean(1)
        gain = (round(float(difference.mean()), 4), *_interval(difference))
    low, high = _interval(means)
    return UtilityRow(
        setting,
        share,
        *sizes,
        auroc=round(float(means.mean()), 4),
        interval=(max(low, 0.0), min(high, 1.0)),
        gain=gain,
        by_pathology=dict(zip(names, found.mean(0).round(4).tolist(), strict=True)),
    )


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean, by Student's t."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return round(float(values.mean()) - half, 4), round(float(values.mean()) + half, 4)
