"""Some of the rejected images by reason. They aren't kept; their 16 x 16 thumbnails are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medsynth_core.filters import COLUMNS
from medsynth_core.filters.registration import SIDE
from medsynth_core.release.reader import Release


@dataclass(frozen=True)
class RejectedImage:
    """One rejected image.

    Attributes:
        row: of the table of rejected images: prompt, labels, reasons, scores.
        thumbnail_u8: uint8 [16, 16]; None where the row has none.
    """

    reason: str
    row: dict[str, Any]
    thumbnail_u8: npt.NDArray[np.uint8] | None


def rejected_images(release: Release, most: int) -> list[RejectedImage]:
    """Returns up to ``most`` images of each reason, by reason and id."""
    reasons = release.rejected(["image_id", "reasons"])
    chosen = _of_each(reasons, most)
    columns = ["image_id", "prompt", "labels", "reasons", "signature", *(column.name for column in COLUMNS)]
    rows = release.rejected(columns, filters=[("image_id", "in", list(chosen))]).to_pylist()
    rows.sort(key=lambda row: (chosen[row["image_id"]], row["image_id"]))
    return [RejectedImage(chosen[row["image_id"]], row, _thumbnail(row["signature"])) for row in rows]


def _of_each(reasons: pa.Table, most: int) -> dict[str, str]:
    """Returns the first reason of up to ``most`` images of each, by id."""
    chosen: dict[str, str] = {}
    taken: dict[str, int] = {}
    for row in sorted(reasons.to_pylist(), key=lambda row: row["image_id"]):
        reason = row["reasons"][0]
        taken[reason] = taken.get(reason, 0) + 1
        if taken[reason] <= most:
            chosen[row["image_id"]] = reason
    return chosen


def _thumbnail(signature: bytes | None) -> npt.NDArray[np.uint8] | None:
    return None if signature is None else np.frombuffer(signature, dtype=np.uint8).reshape(SIDE, SIDE)
