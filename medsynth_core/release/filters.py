"""Row filters for a manifest, as conditions that a config file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medsynth_core.errors import InputError

Condition = Sequence[Any]
"""(column, operator, value)."""
_COMPARE = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
OPERATORS = (*_COMPARE, "in", "not in", "contains", "not contains")


def filter_columns(filters: Sequence[Condition], known: Sequence[str]) -> list[str]:
    """Returns the columns that the conditions read.

    Raises:
        InputError: one isn't (column, operator, value), or names no column or operator.
    """
    for condition in filters:
        if len(condition) != 3 or condition[0] not in known or condition[1] not in OPERATORS:
            raise InputError(
                f"filter {condition!r}: expected (column, operator, value) with a manifest column and one of "
                f"{', '.join(OPERATORS)}"
            )
    return [condition[0] for condition in filters]


def matches(table: pa.Table, filters: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    """Returns which rows meet all conditions, bool [rows]; a null meets none.

    ``contains`` looks into a list: for an item that contains a text ("effusion" in "pleural effusion"), or for a label
    with the given fields ({"pathology": "pleural effusion", "side": "left"}).

    Raises:
        InputError: a value doesn't fit its column.
    """
    mask = np.ones(len(table), dtype=bool)
    for name, operator, value in filters:
        try:
            mask &= _meets(table[name].combine_chunks(), operator, value)
        except (pa.ArrowException, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"filter {(name, operator, value)!r}: {reason}; column {name} is {table[name].type}"
            ) from error
    return mask


def _meets(column: pa.Array, operator: str, value: Any) -> npt.NDArray[np.bool_]:
    if operator in _COMPARE:
        found = _COMPARE[operator](column, pa.scalar(value))
    elif operator in ("in", "not in"):
        inside = pc.is_in(column, value_set=pa.array(list(value), column.type))
        found = inside if operator == "in" else pc.and_(pc.invert(inside), pc.is_valid(column))
    else:
        inside = _contains(column, value)
        return inside if operator == "contains" else ~inside & _filled(pc.is_valid(column))
    return _filled(found)


def _contains(column: pa.Array, value: Any) -> npt.NDArray[np.bool_]:
    if not pa.types.is_list(column.type):
        raise TypeError("contains needs a list")
    items, rows = column.flatten(), pc.list_parent_indices(column)
    if isinstance(value, Mapping):
        hit = np.ones(len(items), dtype=bool)
        for field, wanted in value.items():
            hit &= _filled(pc.equal(pc.struct_field(items, field), pa.scalar(wanted)))
    else:
        hit = _filled(pc.match_substring(items, value))
    found = np.zeros(len(column), dtype=bool)
    found[rows.to_numpy(zero_copy_only=False)[hit]] = True
    return found


def _filled(array: Any) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask
