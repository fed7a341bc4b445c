"""The anatomy filter: lungs, heart and body where the corpus has them, bright where they are.

Masks of organs exist for few corpora, so the corpus' own thumbnails say what is usual: their principal components, and
how far an image lies from the mean along these (Hotelling's T squared). A shifted, inverted or framed film and one with
a single lung lie far off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.duplicate import Signatures, signatures
from medsynth_core.quality.filters import Images, Judgement, Prompt

_VARIANCE = 0.95
"""Share of the thumbnails' variance that the components hold; what is finer differs between patients."""


class Anatomy:
    """A Gaussian of thumbnails along their principal components."""

    def __init__(self, training: Signatures) -> None:
        """Takes thumbnails of training images, uint8 [N, 256]."""
        standard = _standardised(training)
        self.mean: npt.NDArray[np.float64] = standard.mean(0)
        variances, axes = np.linalg.eigh(np.cov(standard, rowvar=False))
        variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
        n = int(np.searchsorted(variances.cumsum(), _VARIANCE * variances.sum())) + 1
        self._whiten = axes[:, :n] / np.sqrt(variances[:n] + 1e-9) / np.sqrt(n)

    def scores(self, marks: Signatures) -> npt.NDArray[np.float64]:
        """Returns the mean squared distance from the mean in standard deviations of each component, float64 [N]; about
        1 for a usual image."""
        scores: npt.NDArray[np.float64] = np.square((_standardised(marks) - self.mean) @ self._whiten).sum(1)
        return scores

    def inverted(self, marks: Signatures) -> npt.NDArray[np.bool_]:
        """Returns whether each is bright where the mean is dark, bool [N]."""
        inverted: npt.NDArray[np.bool_] = _standardised(marks) @ self.mean < 0
        return inverted


class AnatomyFilter:
    """Rejects images whose anatomy is farther from the usual than almost all real held-out images'."""

    name = "anatomy"

    def __init__(self, anatomy: Anatomy, bound: float) -> None:
        self._anatomy = anatomy
        self._bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: ``Anatomy.scores``."""
        marks = signatures(images_u8)
        return [
            Judgement(
                {"score_anatomy": float(score)},
                None if score <= self._bound else "anatomy:inverted" if inverted else "anatomy:unusual",
            )
            for score, inverted in zip(self._anatomy.scores(marks), self._anatomy.inverted(marks), strict=True)
        ]


def _standardised(marks: Signatures) -> npt.NDArray[np.float64]:
    """Returns thumbnails with mean 0 and deviation 1, exposure taken out."""
    values = marks.astype(np.float64)
    centred = values - values.mean(1, keepdims=True)
    standard: npt.NDArray[np.float64] = centred / (centred.std(1, keepdims=True) + 1.0)
    return standard
