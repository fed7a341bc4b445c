"""What tables say of findings, patients and splits, in any house's words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medsynth_core.corpus.records import NO_FINDING, Given, Status

_STATUSES: dict[str, Status] = {
    "1": "present", "1.0": "present", "true": "present",
    "0": "absent", "0.0": "absent", "false": "absent",
    "-1": "uncertain", "-1.0": "uncertain",
}  # fmt: skip
_SEVERAL = re.compile(r"\s*[;|]\s*")
_NORMAL = frozenset({NO_FINDING, "no findings", "normal", "normal chest"})
_SEXES = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_DAYS = {"Y": 365.25, "M": 30.44, "W": 7.0, "D": 1.0}
_OLDEST = 120


def listed(cell: str, origin: str) -> tuple[Given, ...]:
    """Returns the findings that a cell names, with semicolons or bars between them."""
    return tuple(Given(_plain(name), "present", origin) for name in dict.fromkeys(_SEVERAL.split(cell)) if name)


def labelled(name: str, cell: str, origin: str) -> Given | None:
    """Returns what a cell of a finding's own column says: 1, 0 or -1; None of an empty one.

    That a chest isn't normal says nothing of a finding.

    Raises:
        ValueError: it is something else.
    """
    if cell == "":
        return None
    status = _STATUSES.get(cell.lower())
    if status is None:
        raise ValueError(f"{cell!r} for {name!r}; 1, 0, -1 or nothing is expected")
    given = Given(_plain(name), status, origin)
    return None if given.name == NO_FINDING and status != "present" else given


def _plain(name: str) -> str:
    """Returns a finding's name as the source has it; a normal chest's always alike."""
    name = name.strip()
    return NO_FINDING if name.lower().replace("_", " ") in _NORMAL else name


def sex_of(said: str) -> str | None:
    """Returns F, M, or None where it is unknown or another."""
    return _SEXES.get(said.strip().lower())


def age_of(said: str) -> int | None:
    """Returns whole years of a number, or of DICOM's age string (PS3.5 6.2: ``061Y``, ``018M``, ``006W``, ``003D``).

    None where there is none, or one that nobody reaches."""
    number, unit = said.strip().upper(), "Y"
    if number[-1:] in _DAYS:
        number, unit = number[:-1], number[-1]
    try:
        years = float(number) * _DAYS[unit] / _DAYS["Y"]
    except ValueError:
        return None
    return int(years) if 0 <= years <= _OLDEST else None


def split_named(said: str) -> str | None:
    """Returns train, val or test; None where nothing is said."""
    return _SPLITS.get(said.strip().lower())


def splits_in(cells: Iterable[str]) -> frozenset[str]:
    """Returns which of train, val and test are named."""
    return frozenset(split for cell in set(cells) if (split := split_named(cell)) is not None)
