"""The sharpness filter: images smoother than the tokeniser makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.filters import Images, Judgement, Prompt


def sharpness(images_u8: Images) -> npt.NDArray[np.float32]:
    """Returns the root mean square of the Laplacian over the image's standard deviation, float32 [N]; the variance of
    the Laplacian (J. L. Pech-Pacheco et al., *Diatom autofocusing in brightfield microscopy*, ICPR 2000), contrast
    taken out."""
    grey = images_u8.astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    root: npt.NDArray[np.float32] = np.sqrt(np.square(laplacian).mean((1, 2)))
    return root / (grey.std((1, 2)) + 1e-6)


class SharpnessFilter:
    """Rejects images that are less sharp than almost all held-out images as the VQ-GAN renders them."""

    name = "sharpness"

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: ``sharpness``."""
        return [
            Judgement({"score_sharpness": float(s)}, "sharpness:blurred" if s < self._bound else None)
            for s in sharpness(images_u8)
        ]
