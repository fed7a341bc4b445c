"""The scores of the manifest in words, and which of them a reason of rejection goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """One score column.

    Attributes:
        bound: its name among the bounds of ``release.json``; None where the bound is a setting.
        digits: after the point.
    """

    column: str
    title: str
    bound: str | None
    digits: int = 2


SCORES = (
    Score("score_agreement", "agreement with the prompt", "agreement"),
    Score("score_training_distance", "distance to the nearest training image", "training_copy", 3),
    Score("score_release_distance", "distance to the nearest earlier image here", "copy", 3),
    Score("score_release_features", "distance to the nearest earlier image here by the judge", "copy_features"),
    Score("score_labels", "improbability of the labels", "labels"),
    Score("score_anatomy", "unusual anatomy", "anatomy"),
    Score("score_organs", "unusual lungs or heart", "organs"),
    Score("score_sharpness", "sharpness", "sharpness"),
    Score("score_noise", "noise in grey levels", "noise"),
    Score("score_niqe", "NIQE", "niqe"),
    Score("score_contrast", "contrast in grey levels", None, 1),
    Score("score_clipped", "share of black or white pixels", "clipped", 4),
)
_BY_COLUMN = {score.column: score for score in SCORES}
_COLUMNS = {
    "degenerate:blank": "score_contrast",
    "degenerate:saturated": "score_clipped",
    "duplicate:training": "score_training_distance",
    "duplicate:release": "score_release_distance",
    "duplicate:alike": "score_release_features",
}
_REASONS = {
    "degenerate:blank": "almost one grey",
    "degenerate:saturated": "too much black or white",
    "sharpness:blurred": "blurred",
    "noise:high": "noisy",
    "anatomy:unusual": "unusual anatomy",
    "anatomy:inverted": "black and white swapped",
    "organs:right lung": "unusual right lung",
    "organs:left lung": "unusual left lung",
    "organs:heart": "unusual heart",
    "niqe:unnatural": "unnatural texture",
    "labels:differ": "findings or sides other than prompted",
    "agreement:low": "at odds with its prompt",
    "duplicate:training": "copy of a training image",
    "duplicate:release": "copy of an image of the release",
    "duplicate:alike": "looks to the judge like an image of the release",
}


def reason_in_words(reason: str) -> str:
    """Returns what a reason says; an unknown one as it is."""
    return _REASONS.get(reason, reason)


def deciding_score(reason: str) -> Score | None:
    """Returns the score that a reason goes by, if it goes by one."""
    return _BY_COLUMN.get(_COLUMNS.get(reason, f"score_{reason.partition(':')[0]}"))


def score_lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns title and value of every score that a row has."""
    return [(score.title, f"{row[score.column]:.{score.digits}f}") for score in SCORES if has_score(row, score.column)]


def has_score(row: Mapping[str, Any], column: str) -> bool:
    """Returns whether a row has a score: a filter that isn't enabled, or was spared, leaves none."""
    value = row.get(column)
    return value is not None and value == value
