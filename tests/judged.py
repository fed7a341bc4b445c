"""Images judged without trained networks: what the labelling judge, the segmenter and the alignment say is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsynth_core.config.section import Section
from medsynth_core.filters.spec import Arrays, Filter, Prompt
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.judging.verdicts import Chain, ReadyFilter, Verdict

Labels = Sequence[tuple[str, str]]


@dataclass
class GivenJudging:
    """Stands in for ``Judging``: answers are functions of the images."""

    logits: Callable[[np.ndarray], np.ndarray] = lambda images: np.zeros((len(images), 0), dtype=np.float32)
    features: Callable[[np.ndarray], np.ndarray] = lambda images: np.zeros((len(images), 2), dtype=np.float32)
    cells: Callable[[np.ndarray], np.ndarray | None] = lambda images: None
    scores: Callable[[np.ndarray, Sequence[str]], np.ndarray] = lambda images, texts: np.zeros(len(images))
    labels: Labels = ()
    training: TrainingSet = field(
        default_factory=lambda: TrainingSet(np.zeros((0, 256), dtype=np.uint8), np.zeros((1, 2), dtype=np.float16))
    )
    map = staticmethod(map)

    @property
    def judge(self) -> GivenJudging:
        return self

    def look(self, images_u8: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.logits(images_u8), self.features(images_u8)

    def organs(self, images_u8: np.ndarray) -> np.ndarray | None:
        return self.cells(images_u8)

    def agreement(self, images_u8: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        return self.scores(images_u8, texts)


def training_set(images_u8: np.ndarray) -> TrainingSet:
    """Returns images as training images without features worth the name."""
    return TrainingSet(thumbnails(images_u8), np.zeros((max(1, len(images_u8)), 2), dtype=np.float16))


def chain(
    filters: Sequence[Filter[Any, Any]],
    bounds: Mapping[str, float],
    judging: GivenJudging | None = None,
    settings: Mapping[str, Section] | None = None,
    fitted: Mapping[str, Arrays] | None = None,
) -> Chain:
    """Returns filters with given bounds, default settings and what they fitted."""
    asked = judging or GivenJudging()
    ready = [
        ReadyFilter(
            each, (settings or {}).get(each.name, each.settings()),
            each.model((fitted or {}).get(each.name, {}), asked.training),
        )
        for each in filters
    ]  # fmt: skip
    return Chain(ready, bounds, asked)  # type: ignore[arg-type]


def reasons(chain_: Chain, images_u8: np.ndarray, prompts: Sequence[Prompt]) -> list[str | None]:
    """Returns the reason for which each image is rejected."""
    verdicts: list[Verdict] = chain_.verdicts(images_u8, prompts)
    return [verdict.reasons[0] if verdict.reasons else None for verdict in verdicts]
