"""Tables that are JSON Lines: an object a line, whose keys are the columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from medsynth_core.corpus.records import BadRow
from medsynth_core.corpus.tables import Table
from medsynth_core.errors import InputError
from medsynth_core.nearest import did_you_mean


def line_keys(path: Path) -> list[str]:
    """Returns the keys of a JSON Lines file's first line.

    Raises:
        InputError: it has none.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            first = json.loads(next((line for line in stream if line.strip()), ""))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON Lines ({error})") from error
    if not isinstance(first, dict):
        raise InputError(f"{path}: not JSON Lines of objects")
    return list(first)


def open_lines(path: Path, columns: list[str]) -> Table:
    """Returns keys of a JSON Lines file, as ``open_table`` a table's columns.

    Raises:
        InputError: a key is missing in its first line.
    """
    keys = line_keys(path)
    for column in columns:
        if column not in keys:
            hint = did_you_mean(column, keys, cutoff=0.5)
            raise InputError(f"{path}: no column {column!r}{hint} (columns found: {', '.join(keys[:20])})")
    cells: dict[str, list[str]] = {column: [] for column in columns}
    numbers, bad = [], []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                said = {column: _cell(json.loads(line)[column]) for column in columns}
            except (ValueError, KeyError, TypeError) as error:
                bad.append(BadRow(str(path), number, f"no JSON object with {', '.join(columns)} ({error!r})"))
                continue
            numbers.append(number)
            for column, cell in said.items():
                cells[column].append(cell)
    data = pa.table({column: pa.array(values, pa.string()) for column, values in cells.items()})
    return Table(path, data, np.array(numbers, dtype=np.int64), bad)


def _cell(value: object) -> str:
    """Returns a JSON value as a table's cell.

    Raises:
        TypeError: it is an object.
    """
    if isinstance(value, dict):
        raise TypeError("an object where text or a number is wanted")
    if isinstance(value, list):
        return ";".join(_cell(each) for each in value)
    return "" if value is None else str(value).strip()
