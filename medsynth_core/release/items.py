"""Items of a release for training: image tensor, multi-hot target, prompt and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medsynth_core.release.reader import Release, decode_png

Transform = Callable[[torch.Tensor], torch.Tensor]
PLACE = ("shard", "offset", "size")
SHOWN = ("image_id", "prompt", "pathology", "labels", "view")


class ItemMaker:
    """Makes items of PNG bytes and manifest rows.

    An item has ``image`` (uint8 tensor [1, H, W], after ``transform`` if given), ``target`` (float32 [classes], 1 where
    the pathology was prompted), ``image_id``, ``prompt``, ``pathology`` (list of terms), ``labels`` (list of findings)
    and ``view``.

    Attributes:
        classes: pathologies of ``target``, in order; by default those of the release, by name.
    """

    def __init__(self, release: Release, transform: Transform | None, classes: Sequence[str] | None) -> None:
        known = sorted(name for name in release.info["pathologies"] if name != "no finding")
        self.classes = tuple(known if classes is None else classes)
        self._place = {name: place for place, name in enumerate(self.classes)}
        self._transform = transform
        self._where = release.where

    def make(self, png: bytes, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an item.

        Raises:
            CorruptObjectError: the bytes aren't a PNG of sane size.
        """
        pixels = np.array(decode_png(png, f"{self._where}: {row['image_id']}"))
        image = torch.from_numpy(pixels)[None]
        target = torch.zeros(len(self.classes))
        for name in row["pathology"]:
            if name in self._place:
                target[self._place[name]] = 1.0
        shown = {name: row[name] for name in SHOWN}
        return {"image": self._transform(image) if self._transform else image, "target": target, **shown}


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a batch: images and targets stacked, everything else as lists."""
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    return {**batch, "image": torch.stack(batch["image"]), "target": torch.stack(batch["target"])}
