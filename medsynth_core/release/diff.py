"""The difference of two releases: images that came and went, objects they share, labels that moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.spatial.distance import jensenshannon

from medsynth_core.config.dotted import flat
from medsynth_core.release.reader import Release

_KINDS: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "pathology": lambda row: {label["pathology"] for label in row["labels"]} or {"no finding"},
    "side": lambda row: [label["side"] for label in row["labels"]],
    "severity": lambda row: [label["severity"] or "none" for label in row["labels"]],
    "view": lambda row: [row["view"] or "unknown"],
}


@dataclass(frozen=True)
class Shift:
    """How one distribution of labels moved.

    Attributes:
        before, after: images or findings by name.
        distance: Jensen-Shannon distance of the two (base 2): 0 is the same, 1 nothing in common.
    """

    before: dict[str, int]
    after: dict[str, int]
    distance: float


@dataclass(frozen=True)
class ReleaseDiff:
    """From release ``a`` to release ``b``.

    Attributes:
        came, went, kept: images, by id.
        changed: images of both with other bytes.
        shared_files: files of ``b`` whose objects ``a`` has too.
        new_files: files of ``b`` with objects of their own.
        settings: parameters that differ, as (in a, in b), by dotted name.
        shifts: by kind of label.
    """

    a: str
    b: str
    came: int
    went: int
    kept: int
    changed: int
    shared_files: int
    new_files: int
    settings: dict[str, tuple[Any, Any]]
    shifts: dict[str, Shift]


def diff(a: Release, b: Release) -> ReleaseDiff:
    """Returns what changed from ``a`` to ``b``."""
    rows_a, rows_b = (release.manifest(["image_id", "sha256", "labels", "view"]) for release in (a, b))
    bytes_a, bytes_b = _by_id(rows_a), _by_id(rows_b)
    kept = bytes_a.keys() & bytes_b.keys()
    objects = set(a.files.values())
    shared = sum(key in objects for key in b.files.values())
    return ReleaseDiff(
        a=a.name,
        b=b.name,
        came=len(bytes_b) - len(kept),
        went=len(bytes_a) - len(kept),
        kept=len(kept),
        changed=sum(bytes_a[identity] != bytes_b[identity] for identity in kept),
        shared_files=shared,
        new_files=len(b.files) - shared,
        settings=_changed_settings(a.info, b.info),
        shifts={kind: _shift(rows_a, rows_b, names) for kind, names in _KINDS.items()},
    )


def _by_id(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["image_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))


def _shift(rows_a: pa.Table, rows_b: pa.Table, names: Callable[[dict[str, Any]], Iterable[str]]) -> Shift:
    before, after = (Counter(name for row in _labels(rows) for name in names(row)) for rows in (rows_a, rows_b))
    every = sorted(before | after, key=lambda name: (-after[name], name))
    p, q = (np.array([counts[name] for name in every], dtype=float) for counts in (before, after))
    distance = float(jensenshannon(p, q, base=2)) if p.sum() and q.sum() else float(bool(p.sum()) != bool(q.sum()))
    return Shift(dict(before), {name: after[name] for name in every}, round(distance, 4))


def _labels(rows: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.select(["labels", "view"]).to_pylist()
    return found


def _changed_settings(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat_a, flat_b = (
        {
            f"{section}.{key}": value
            for section in ("sampling", "quality", "bounds", "model_digests", "prompts", "corpus")
            for key, value in flat(info[section]).items()
        }
        for info in (a, b)
    )
    return {
        name: (flat_a.get(name), flat_b.get(name))
        for name in sorted({*flat_a, *flat_b})
        if flat_a.get(name) != flat_b.get(name)
    }
