"""The accepted images that a page shows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from medsynth_core.release.reader import Release

_AT_ONCE = 8
_LARGEST_SIDE = 256
"""Pixels; larger images are scaled down for the page."""
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Neighbour:
    """The training image that is nearest to an image.

    Attributes:
        image_u8: uint8 [H, W].
        distance: 0..1, of 16 x 16 thumbnails.
    """

    image_u8: Grey
    distance: float


@dataclass(frozen=True)
class GalleryImage:
    """One accepted image.

    Attributes:
        row: of the manifest.
        image_u8: uint8 [H, W].
        cells: row-major latent cells of the keypatches, best first; empty when their codebook isn't at hand.
    """

    row: dict[str, Any]
    image_u8: Grey
    cells: tuple[int, ...] = ()
    neighbour: Neighbour | None = None


def gallery_rows(release: Release, most: int) -> list[dict[str, Any]]:
    """Returns up to ``most`` rows of the manifest, one a prompt as long as there are prompts, in turn over the
    pathologies."""
    chosen = spread(release.manifest(["image_id", "prompt_id", "pathology"]), most)
    rows = release.manifest(filters=[("image_id", "in", chosen)]).to_pylist()
    place = {identity: number for number, identity in enumerate(chosen)}
    return sorted(rows, key=lambda row: place[row["image_id"]])


def spread(table: pa.Table, most: int) -> list[str]:
    """Returns the ids of up to ``most`` images: the first of every prompt before the second of any, and among those
    the first of every set of pathologies before its second."""
    of_prompt: Counter[str] = Counter()
    of_group: Counter[tuple[int, str]] = Counter()
    ranked: list[tuple[int, int, str, int, str]] = []
    for row in table.to_pylist():
        turn, group = of_prompt[row["prompt_id"]], "|".join(row["pathology"] or ())
        ranked.append((turn, of_group[turn, group], group, len(ranked), row["image_id"]))
        of_prompt[row["prompt_id"]] += 1
        of_group[turn, group] += 1
    return [identity for *_, identity in sorted(ranked)[:most]]


def read_images(release: Release, rows: Sequence[dict[str, Any]]) -> list[Grey]:
    """Returns the images of rows, uint8 [H, W] each."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda row: np.array(release.image(row["shard"], row["offset"], row["size"])), rows))


def page_png(image_u8: Grey) -> bytes:
    """Returns an image as a PNG of a size that suits a page."""
    image = Image.fromarray(image_u8)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
