"""Filters: a batch of images and prompts in, a judgement an image out.

Cheap filters come first; an image that one rejects isn't shown to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""uint8 [N, H, W]."""
Features = npt.NDArray[np.float16]
"""What the labelling judge sees in images (``embedding``), float16 [N, F] or [F] of one."""


class Prompt(Protocol):
    """What an image was asked to show."""

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        """Each with pathology, anatomy, side and severity."""

    @property
    def query(self) -> str:
        """The findings in words."""

    @property
    def view(self) -> str:
        """frontal or lateral."""


@dataclass(frozen=True)
class Judgement:
    """One filter's word on one image.

    Attributes:
        scores: by manifest column.
        reason: ``filter:what`` when rejected, None when accepted.
        features: of a filter that asks the labelling judge.
    """

    scores: Mapping[str, float]
    reason: str | None = None
    features: Features | None = None


class Filter(Protocol):
    """Judges images by one criterion; ``name`` is how the config enables it."""

    name: str

    def judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Judgement]: ...


@dataclass
class Verdict:
    """All scores of an image, why it was rejected (no reasons: accepted), and its features if a filter saw them."""

    scores: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    features: Features | None = None

    @property
    def accepted(self) -> bool:
        return not self.reasons


def judge_images(filters: Sequence[Filter], images_u8: Images, prompts: Sequence[Prompt]) -> list[Verdict]:
    """Returns a verdict an image; the scores that a rejected image was spared are missing."""
    verdicts = [Verdict() for _ in prompts]
    for each in filters:
        alive = [index for index, verdict in enumerate(verdicts) if verdict.accepted]
        if not alive:
            break
        judgements = each.judge(images_u8[alive], [prompts[index] for index in alive])
        for index, judgement in zip(alive, judgements, strict=True):
            verdicts[index].scores.update(judgement.scores)
            if judgement.features is not None:
                verdicts[index].features = judgement.features
            if judgement.reason is not None:
                verdicts[index].reasons.append(judgement.reason)
    return verdicts
