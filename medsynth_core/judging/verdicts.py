"""Verdicts: enabled filters over a batch of images, the cheap ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medsynth_core.config.section import Section
from medsynth_core.filters.fingerprints import Features, Fingerprints
from medsynth_core.filters.spec import Context, Filter, Prompt
from medsynth_core.filters.thumbnails import Images
from medsynth_core.judging.networks import Judging, Seen

Rows = npt.NDArray[np.int64]
_JUDGED_AT_ONCE = 64
"""Images, so few that what filters compute of 256 x 256 pixels stays in a cache."""


@dataclass
class Verdict:
    """All scores of an image, why it was rejected (no reasons: accepted), and what the labelling judge saw if it was
    asked."""

    scores: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    features: Features | None = None

    @property
    def accepted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class ReadyFilter:
    """A filter with what it compares with.

    Attributes:
        model: of ``Filter.model``.
    """

    filter: Filter[Any, Any]
    settings: Section
    model: Any

    def judge(
        self, images_u8: Images, prompts: Sequence[Prompt], context: Context, bounds: Mapping[str, float]
    ) -> tuple[dict[str, npt.NDArray[Any]], list[str | None]]:
        """Returns the scores by column, [N], and the reason for which each image is rejected."""
        scores = self.filter.measure(images_u8, prompts, context, self.model)
        reasons = self.filter.judge(scores, bounds, self.settings)
        return {column.name: scores[column.name] for column in self.filter.columns if column.name in scores}, reasons


@dataclass(frozen=True)
class Chain:
    """Enabled filters in their order, their bounds and the networks that they ask."""

    filters: Sequence[ReadyFilter]
    bounds: Mapping[str, float]
    judging: Judging

    def verdicts(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Verdict]:
        """Returns a verdict an image, uint8 [N, H, W], with the features of all that are accepted."""
        starts = range(0, len(images_u8), _JUDGED_AT_ONCE)
        parts = [slice(start, start + _JUDGED_AT_ONCE) for start in starts]
        found = self.judging.map(self._judge, [images_u8[part] for part in parts], [prompts[part] for part in parts])
        return [verdict for part in found for verdict in part]

    def _judge(self, images_u8: Images, prompts: Sequence[Prompt]) -> list[Verdict]:
        """An image that one filter rejects isn't shown to the next: the scores that it was spared are missing."""
        seen = Seen(self.judging, images_u8, prompts)
        verdicts = [Verdict() for _ in prompts]
        for each in self.filters:
            alive = _accepted(verdicts)
            if not len(alive):
                break
            shown = seen.of(alive)
            scores, reasons = each.judge(shown.images_u8, shown.prompts, shown, self.bounds)
            _note(verdicts, alive, scores)
            for row, reason in zip(alive.tolist(), reasons, strict=True):
                if reason is not None:
                    verdicts[row].reasons.append(reason)
        alive = _accepted(verdicts)
        if len(alive):
            for row, features in zip(alive.tolist(), seen.look(alive)[1].astype(np.float16), strict=True):
                verdicts[row].features = features
        return verdicts

    def judge_together(self, verdicts: Sequence[Verdict], fingerprints: Fingerprints) -> None:
        """Adds to the verdicts what only the images of a whole shard show together."""
        every = np.arange(len(verdicts))
        for each in self.filters:
            accepted = np.array([verdict.accepted for verdict in verdicts], dtype=bool)
            scores, rejected = each.filter.judge_together(fingerprints, accepted, self.bounds)
            _note(verdicts, every, scores)
            for row, copy in rejected.items():
                verdicts[row].reasons.append(copy.reason)


def _accepted(verdicts: Sequence[Verdict]) -> Rows:
    return np.array([row for row, verdict in enumerate(verdicts) if verdict.accepted], dtype=np.int64)


def _note(verdicts: Sequence[Verdict], rows: Rows, scores: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes scores into the verdicts of some rows; a NaN is no score."""
    for name, values in scores.items():
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            if value == value:
                verdicts[row].scores[name] = float(value)
