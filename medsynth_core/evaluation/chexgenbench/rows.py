"""Tables in CheXGenBench's format: its columns in its order, rounded to three digits as it does.

A column keeps its name only where the protocol's network filled it (``Cast.heading``); one whose network was left out
is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from medsynth_core.evaluation.chexgenbench.measured import Measured
from medsynth_core.evaluation.chexgenbench.networks import BIOVIL_T, INCEPTION, RAD_DINO, REID, Cast
from medsynth_core.evaluation.chexgenbench.protocol import ALIGNMENT_COLUMNS, FIDELITY_COLUMNS, PRIVACY_COLUMNS

Row = dict[str, Any]
_FIDELITY = dict(
    zip(
        FIDELITY_COLUMNS,
        (
            (INCEPTION, "fid"),
            (RAD_DINO, "fid"),
            (INCEPTION, "inception_score"),
            (INCEPTION, "kid"),
            (RAD_DINO, "kid"),
            (RAD_DINO, "precision"),
            (RAD_DINO, "recall"),
            (RAD_DINO, "density"),
            (RAD_DINO, "coverage"),
        ),
        strict=False,
    )
)
"""Role and metric of each column."""
_ROLE_OF = {"reid": REID, "latent": RAD_DINO}
_DIGITS = 3
_PRIVACY_DIGITS = 4


def fidelity_row(figures: Iterable[Measured], label: str | None, playing: Cast, extra: str, caption: str) -> Row:
    """Returns the row of all images, or of one pathology with ``Pathology`` behind it."""
    found = {(figure.role, figure.metric): figure.value for figure in figures if figure.label == label}
    row: Row = {
        playing.heading(column, role): _rounded(found.get((role, metric)))
        for column, (role, metric) in _FIDELITY.items()
    }
    row |= dict(zip(FIDELITY_COLUMNS[-2:], (extra, caption), strict=True))
    return row if label is None else row | {"Pathology": label}


def alignment_row(figures: Iterable[Measured], label: str | None, playing: Cast, extra: str) -> Row:
    """Returns the row of all images, or of one pathology with ``Pathology`` behind it."""
    value = next((each.value for each in figures if (each.metric, each.label) == ("alignment", label)), None)
    score, note = ALIGNMENT_COLUMNS
    row: Row = {playing.heading(score, BIOVIL_T): _rounded(value), note: extra}
    return row if label is None else row | {"Pathology": label}


def privacy_table(rows: Sequence[Row], playing: Cast) -> list[Row]:
    """Returns the rows of ``reidentified.privacy_rows`` under the headings of who filled them."""
    return [
        {
            _privacy_heading(column, playing): _rounded(row[column], _PRIVACY_DIGITS)
            if column in _NUMBERS
            else row[column]
            for column in PRIVACY_COLUMNS
        }
        for row in rows
    ]


_NUMBERS = frozenset(PRIVACY_COLUMNS[2:])


def as_csv(rows: Sequence[Row]) -> str:
    """Returns rows of the same columns as CSV; None is an empty cell."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def _privacy_heading(column: str, playing: Cast) -> str:
    role = next((role for part, role in _ROLE_OF.items() if f"_{part}_" in column), None)
    return column if role is None else playing.heading(column, role)


def _rounded(value: float | None, digits: int = _DIGITS) -> float | None:
    """Returns a value rounded; None of one that is no number."""
    return None if value is None or value != value else round(value, digits)
