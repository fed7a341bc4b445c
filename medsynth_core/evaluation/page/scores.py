"""The scores of the manifest in words, and which of them a reason of rejection goes by; all of it the filters' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medsynth_core.filters import COLUMNS, FILTERS
from medsynth_core.filters.spec import Column

_BY_NAME = {column.name: column for column in COLUMNS}
_REASONS = {reason.name: reason for each in FILTERS for reason in each.reasons}


FEATURED = tuple(sorted((column for column in COLUMNS if column.orders), key=lambda column: column.least is None))
"""What stands below every picture, and what the gallery can be sorted by; those with a slider first."""


def reason_in_words(reason: str) -> str:
    """Returns what a reason says; an unknown one as it is."""
    return _REASONS[reason].words if reason in _REASONS else reason


def deciding_score(reason: str) -> Column | None:
    """Returns the score that a reason goes by; None of an unknown one."""
    return _BY_NAME[_REASONS[reason].column] if reason in _REASONS else None


def bound_of(column: Column, about: Mapping[str, Any]) -> float | None:
    """Returns the bound of a score in a release, by its ``release.json``; None where it isn't recorded."""
    if column.bound is not None:
        return about.get("bounds", {}).get(column.bound)  # type: ignore[no-any-return]
    owner = next(each.name for each in FILTERS if column in each.columns)
    settings = about["quality"].get(owner)
    return settings.get(column.setting) if isinstance(settings, dict) else None


def score_lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns title and value of every score that a row has, but for the featured ones."""
    return [
        (column.title, f"{row[column.name]:.{column.digits}f}")
        for column in COLUMNS
        if column not in FEATURED and has_score(row, column.name)
    ]


def featured_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the featured scores that a row has, by column."""
    return {column.name: float(row[column.name]) for column in FEATURED if has_score(row, column.name)}


def has_score(row: Mapping[str, Any], column: str) -> bool:
    """Returns whether a row has a score: a filter that isn't enabled, or was spared, leaves none."""
    value = row.get(column)
    return value is not None and value == value
