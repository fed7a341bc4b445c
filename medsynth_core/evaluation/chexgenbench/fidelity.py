"""FID, KID, inception score and PRDC as CheXGenBench takes them (metrics/fid.py of Raman1121/CheXGenBench, with
torchmetrics 1.7.1 and prdc 0.2): on all images of each side, however few they are.

Unlike those of ``evaluation.figures``, which has no FID where images are no more than features, these compare with the
board's numbers of as many images, and with nothing else.

Shapes: N, M images, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from medsynth_core.evaluation.chexgenbench.measured import Measured
from medsynth_core.evaluation.chexgenbench.networks import INCEPTION, RAD_DINO
from medsynth_core.evaluation.chexgenbench.pictures import Pictures
from medsynth_core.evaluation.chexgenbench.protocol import INCEPTION_SPLITS, KID_SUBSETS, NEAREST_K
from medsynth_core.evaluation.metrics.frechet import Moments, frechet_distance
from medsynth_core.evaluation.metrics.kernel import squared_discrepancy
from medsynth_core.fidelity.neighbours import neighbourhoods
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
_OF = {
    RAD_DINO: ("fid", "kid", "precision", "recall", "density", "coverage"),
    INCEPTION: ("fid", "kid", "inception_score"),
}
"""Figures by the role of the network whose features they are of."""


@dataclass(frozen=True)
class Side:
    """Images of one side with their features float32 [N, F]."""

    pictures: Pictures
    features: Floats

    def of(self, label: str | None) -> Floats:
        """Returns the features of the images with a label."""
        return self.features[self.pictures.places(label)]


def fidelity_figures(
    role: str, network: str, label: str | None, synthetic: Side, real: Side, training: Side, seed: int
) -> Iterator[Measured]:
    """Yields the figures of all images, or of those with a label; the control is of as many training images.

    Args:
        training: real images that none of ``real`` is of; it may be empty.
    """
    ours, theirs, usual = synthetic.of(label), real.of(label), training.of(label)
    about = (role, network, label, len(ours), len(theirs))
    if min(len(ours), len(theirs)) <= NEAREST_K:
        reason = f"at most {NEAREST_K} images on a side"
        yield from (Measured(metric, *about, reason=reason) for metric in _OF[role])
        return
    found = figures(role, ours, theirs, seed)
    control = figures(role, usual[: len(ours)], theirs, seed) if len(usual) >= len(ours) else None
    usually = None if control is None else "training images"
    few = f"no more images than features ({ours.shape[1]})" if min(map(len, (ours, theirs))) <= ours.shape[1] else None
    for metric in _OF[role]:
        yield Measured(
            metric,
            *about,
            found[metric],
            control=None if control is None else control[metric],
            control_of=usually,
            reason=few if metric == "fid" else None,
        )


def figures(role: str, side: Floats, real: Floats, seed: int) -> Mapping[str, float]:
    """Returns the figures of a role's features by name; both sides have more than ``NEAREST_K`` rows."""
    take: dict[str, Callable[[], float]] = {
        "fid": lambda: frechet_distance(Moments.of(side), Moments.of(real)),
        "kid": lambda: kid(real, side, seed),
        "inception_score": lambda: inception_score(side, seed),
    }
    found = {metric: take[metric]() for metric in _OF[role] if metric in take}
    if role == RAD_DINO:
        found |= asdict(neighbourhoods(real, side, NEAREST_K))
    return found


def kid(real_NF: Floats, fake_MF: Floats, seed: int) -> float:
    """Returns the mean unbiased squared discrepancy over ``KID_SUBSETS`` subsets of as many images as the smaller side
    has; of sides of one size every subset is the whole, and one is enough."""
    size = min(len(real_NF), len(fake_MF))
    draw = stream(seed, "chexgenbench.kid_subsets")
    subsets = 1 if len(real_NF) == len(fake_MF) else KID_SUBSETS

    def some(features: Floats) -> Floats:
        chosen = features if len(features) == size else features[draw.permutation(len(features))[:size]]
        return chosen.astype(np.float64)

    return float(np.mean([squared_discrepancy(some(real_NF), some(fake_MF)) for _ in range(subsets)]))


def inception_score(features_NF: Floats, seed: int) -> float:
    """Returns the exponential of the mean divergence of an image's classes from all images', mean over
    ``INCEPTION_SPLITS`` parts of the images in random order (T. Salimans et al., NeurIPS 2016).

    CheXGenBench takes the softmax of the 2,048 *features* for classes (``InceptionScore(feature=2048)``), not that of
    the network's 1,008 logits, so this isn't the score of the literature.
    """
    order = stream(seed, "chexgenbench.inception_splits").permutation(len(features_NF))
    logs_NF = log_softmax(features_NF[order].astype(np.float64), axis=1)
    size = -(-len(logs_NF) // INCEPTION_SPLITS)
    scores = []
    for start in range(0, len(logs_NF), size):
        logs = logs_NF[start : start + size]
        shares = np.exp(logs)
        scores.append(float(np.exp((shares * (logs - np.log(shares.mean(0)))).sum(1).mean())))
    return float(np.mean(scores))
