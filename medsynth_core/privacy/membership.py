"""An attack: from the released images alone, tell training images from images that no model learnt from.

Two attackers. One believes in whoever has the nearest released image (D. Chen et al., *GAN-Leaks*, CCS 2020, full
black box); the other, who has real images of a third set, in whoever is nearer to the released images than to those,
which takes out how common an image is (B. van Breugel et al., *Membership inference attacks against synthetic data
through overfitting detection*, AISTATS 2023, with nearest neighbours for densities).

An AUC of 0.5 is a guess. It averages over all training images: when few are given away it hardly moves, but the share
that is found at few false alarms does (N. Carlini et al., *Membership inference attacks from first principles*, 2022).

Intervals are over the patients who are attacked: what tells one film of a patient tells the next one too.

Shapes: M members, H held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.chance import Groups, resampled_interval
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.space import Space
from medsynth_core.random import stream

Floats = npt.NDArray[np.floating[Any]]
FALSE_ALARMS = 0.01
MEMBERS = 2000
"""Training images at most that are attacked."""
About = tuple[str, int, int]


def membership_figures(space: Space, seed: int) -> Iterator[RiskFigure]:
    """Yields AUC and share of members found, of both attackers; intervals are over who is attacked."""
    draw = stream(seed, "privacy.membership")
    chosen = draw.permutation(len(space.training))[:MEMBERS]
    members = space.training[chosen]
    attacked = Attacked(patients_at(space.training_patients, chosen), space.held_out_patients, draw)
    near_M, near_H = (space.nearest(side, space.synthetic)[1] for side in (members, space.held_out))
    about = (space.name, len(space.synthetic), len(space.held_out))
    yield from attacked.figures("membership", "", about, -near_M, -near_H)
    if len(space.reference):
        usual_M, usual_H = (space.nearest(side, space.reference)[1] for side in (members, space.held_out))
        smallest = float(np.median(near_H)) * 1e-6 + 1e-12
        relative_M, relative_H = usual_M / (near_M + smallest), usual_H / (near_H + smallest)
        yield from attacked.figures("membership", "_relative", about, relative_M, relative_H)


def patients_at(patients: Groups | None, places: npt.NDArray[np.int64]) -> list[str | int] | None:
    """Returns the patients of the images at some places; None where each image is another patient's."""
    return None if patients is None else [patients[place] for place in places.tolist()]


@dataclass(frozen=True)
class Attacked:
    """Who is attacked: patients of members and of the others, as of ``Space``."""

    member_patients: Groups | None
    other_patients: Groups | None
    draw: np.random.Generator

    def figures(
        self, attack: str, suffix: str, about: About, members_M: Floats, others_H: Floats
    ) -> Iterator[RiskFigure]:
        """Yields ``<attack>_auc<suffix>`` and ``<attack>_tpr<suffix>`` of scores, the higher the likelier a member.

        Args:
            about: space, synthetic and held-out images.
        """
        groups = (self.member_patients, self.other_patients)
        over = None if groups == (None, None) else groups
        for metric, statistic, guess in (("auc", auc, 0.5), ("tpr", found, FALSE_ALARMS)):
            low, high = resampled_interval(statistic, (members_M, others_H), self.draw, groups=over)
            value = statistic(members_M, others_H)
            yield RiskFigure(f"{attack}_{metric}{suffix}", *about, value, low, high, guess)


def auc(members_M: Floats, others_H: Floats) -> float:
    """Returns the chance that a member's score is above another's, ties counted half."""
    ordered_H = np.sort(others_H)
    below_M, up_to_M = (np.searchsorted(ordered_H, members_M, side) for side in ("left", "right"))
    return float((below_M + up_to_M).mean() / (2 * len(others_H)))


def found(members_M: Floats, others_H: Floats) -> float:
    """Returns the share of members above all but ``FALSE_ALARMS`` of the others."""
    return float((members_M > np.quantile(others_H, 1 - FALSE_ALARMS, method="higher")).mean())
