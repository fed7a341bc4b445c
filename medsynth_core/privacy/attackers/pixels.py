"""The attacker who looks at thumbnails of 16 x 16: mean absolute difference at equal brightness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsynth_core.filters.thumbnails import Images, Thumbnails, thumbnails
from medsynth_core.privacy.attack import Attack, in_space
from medsynth_core.privacy.sides import Sides


def attack(place: str, sides: Sides) -> Attack:
    """Returns the figures of thumbnails."""

    def embed(images_u8: Images) -> npt.NDArray[np.float32]:
        return coordinates(thumbnails(images_u8))

    known = coordinates(sides.known.thumbnails)
    return in_space(sides.space("pixels", "manhattan", embed, known), sides.params.seed)


def coordinates(small: Thumbnails) -> npt.NDArray[np.float32]:
    """Returns thumbnails of mean 0 whose manhattan distance is that of ``filters.thumbnails``."""
    cells = small.astype(np.float32)
    centred: npt.NDArray[np.float32] = (cells - cells.mean(1, keepdims=True)) / np.float32(255 * small.shape[1])
    return centred
