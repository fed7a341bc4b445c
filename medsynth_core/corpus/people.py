"""What tables say of patients and splits, in any house's words."""

from __future__ import annotations

_SEXES = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_DAYS = {"Y": 365.25, "M": 30.44, "W": 7.0, "D": 1.0}
_OLDEST = 120


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
