"""What may be wrong with a film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["inverted", "turned", "mirrored", "not a frontal chest", "blank", "copy"]


@dataclass(frozen=True)
class Suspect:
    """A film that seems faulty.

    Attributes:
        index: of the film.
        kind: what seems wrong. A film that is both turned and inverted has a suspect for each.
        score: how clearly, larger is clearer; comparable within a kind alone.
        turned_by: degrees counter-clockwise.
        copy_of: index of the other film.
    """

    index: int
    kind: Kind
    score: float
    turned_by: int = 0
    copy_of: int | None = None
