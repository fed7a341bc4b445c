"""The agreement filter: does the image carry its prompt, by the alignment model?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medsynth_core.quality.filters import Images, Judgement, Prompt

Scorer = Callable[[Images, Sequence[str]], npt.NDArray[np.float32]]
"""Returns one score an image-text pair, float32 [N] in [-1, 1]."""


class AgreementFilter:
    """Rejects images that agree less with their text than almost all real held-out pairs do."""

    name = "agreement"

    def __init__(self, scorer: Scorer, bound: float) -> None:
        self._scorer = scorer
        self.bound = bound

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]:
        """Score: the scorer's; one that isn't a number is low."""
        return [
            Judgement({"score_agreement": float(s)}, None if s >= self.bound else "agreement:low")
            for s in self._scorer(images_u8, [prompt.query for prompt in prompts])
        ]
