"""The attacker who has the labelling judge: its last stage, standardised over the training images, Euclidean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsynth_core.filters.thumbnails import Images
from medsynth_core.judging.calibrated import load_judging
from medsynth_core.privacy.attack import Attack, in_space
from medsynth_core.privacy.sides import Sides


def attack(place: str, sides: Sides) -> Attack:
    """Returns the figures of the judge's features."""
    judging = load_judging(sides.paths["calibrate"], sides.alignment, sides.synthetic.shape[1])

    def embed(images_u8: Images) -> npt.NDArray[np.float32]:
        return judging.look(images_u8)[1]

    known = judging.training.standardised(sides.known.raw_features.astype(np.float32))
    return in_space(sides.space("judge", "euclidean", embed, known), sides.params.seed)
