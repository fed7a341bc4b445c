"""Items of a release for training: image tensor, multi-hot target, prompt and labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from medsynth_core.errors import InputError
from medsynth_core.nearest import did_you_mean
from medsynth_core.release.reader import Release, decode_png
from medsynth_core.vocabulary.ontology import load_ontology

_log = logging.getLogger(__name__)
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
        self.classes = tuple(known) if classes is None else _checked(classes, known, release.where)
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
        return Item({"image": self._transform(image) if self._transform else image, "target": target, **shown})


class Item(dict[str, Any]):
    """One image with what is known of it; torch's DataLoader makes batches of them by ``collate``."""


def collate(items: Sequence[Mapping[str, Any]], **_: Any) -> dict[str, Any]:
    """Returns a batch: images and targets stacked, everything else as lists.

    Raises:
        InputError: ``transform`` gave no tensors, or such as differ in shape.
    """
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    found = {
        tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__ for image in batch["image"]
    }
    if len(found) > 1 or not isinstance(next(iter(found)), tuple):
        shown = ", ".join(sorted(map(str, found)))
        raise InputError(f"transform gave {shown} in one batch; expected tensors of one shape")
    return {**batch, "image": torch.stack(batch["image"]), "target": torch.stack(batch["target"])}


default_collate_fn_map[Item] = collate  # so that a DataLoader needs no collate_fn


def _checked(classes: Sequence[str], known: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the classes that were asked for, which the release has, or at least the ontology.

    Raises:
        InputError: one is unknown, names the nearest; or stands there twice.
    """
    if isinstance(classes, str):
        raise InputError(f"classes={classes!r}: expected a list of names, as classes=[{classes!r}]")
    for name in classes:
        term = load_ontology().terms.get(name)
        if name not in known and (term is None or term.kind != "pathology"):
            near = did_you_mean(str(name).lower(), known)
            raise InputError(f"{where}: no image has a finding {name!r}{near} (there are {', '.join(known)})")
    if missing := [name for name in classes if name not in known]:
        _log.warning("%s: no image has %s: their targets are 0 throughout", where, ", ".join(missing))
    if len(set(classes)) < len(classes):
        raise InputError(f"classes={list(classes)!r}: a name stands there twice")
    return tuple(classes)
