"""The networks that judge images: labelling judge, segmenter of organs, and the alignment model.

Shapes: N images, H x W pixels, L labels, F features, G cells a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.filters.spec import Prompt
from medsynth_core.filters.thumbnails import Images, Thumbnails, thumbnails
from medsynth_core.judging.training_set import TrainingSet
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.in_parts import InParts
from medsynth_core.models.judge import Judge
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.segmenter import OrganSegmenter
from medsynth_core.vocabulary.labels import Label

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_PIXELS_AT_ONCE = {True: 2**25, False: 2**20}
"""Judged at once, by whether it is on a GPU."""


@torch.inference_mode()
def see(judge: Judge, images_u8: Images) -> tuple[Floats, Floats]:
    """Returns the judge's calibrated logits, float32 [N, L], and the features as they are, float32 [N, F]."""
    device = next(judge.parameters()).device
    logits, grid = judge.see(to_inputs(images_u8, device))
    return logits.cpu().numpy(), grid.mean((2, 3)).float().cpu().numpy()


@torch.inference_mode()
def organ_cells(segmenter: OrganSegmenter, images_u8: Images) -> npt.NDArray[np.int64]:
    """Returns the organ in each cell, numbers of ``records.ORGANS``, int64 [N, G, G]."""
    device = next(segmenter.parameters()).device
    cells: npt.NDArray[np.int64] = segmenter(to_inputs(images_u8, device)).argmax(1).cpu().numpy()
    return cells


class Judging:
    """Loaded networks on one device; any number of threads may ask.

    Attributes:
        map: as the builtin; beside a GPU by several threads.
    """

    def __init__(self, judge: Judge, alignment: AlignmentModel, training: TrainingSet, image_size: int) -> None:
        device = alignment.device
        cuda = device.type == "cuda"
        self.judge = judge.to(device, memory_format=torch.channels_last)
        self.training = training
        self._alignment = alignment.to(memory_format=torch.channels_last)
        at_once = max(1, _PIXELS_AT_ONCE[cuda] // image_size**2)
        # What is judged doesn't wait behind the next batch's tokens, and beside a GPU the cores are free for it.
        self._in_parts = InParts("judged", at_once, torch.cuda.Stream() if cuda else None)
        threads = ThreadPoolExecutor(max(1, torch.get_num_threads() // 2), thread_name_prefix="judge") if cuda else None
        self.map: Callable[..., Iterable[Any]] = threads.map if threads is not None else map

    def look(self, images_u8: Images) -> tuple[Floats, Floats]:
        """Returns the labelling judge's logits, float32 [N, L], and the standardised features, float32 [N, F]."""
        seen = self._in_parts(len(images_u8), lambda part: see(self.judge, images_u8[part]))
        logits, raw = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        return logits, self.training.standardised(raw)

    def organs(self, images_u8: Images) -> npt.NDArray[np.int64] | None:
        """Returns the organ in each cell, int64 [N, G, G]; None where no film had a mask to learn from."""
        segmenter = self.judge.segmenter
        if segmenter is None:
            return None
        return np.concatenate(self._in_parts(len(images_u8), lambda part: organ_cells(segmenter, images_u8[part])))

    def agreement(self, images_u8: Images, texts: Sequence[str]) -> Floats:
        """Returns prompt-image agreement, float32 [N] in [-1, 1]."""

        def score(part: slice) -> Floats:
            pixels = to_inputs(images_u8[part], self._alignment.device)
            scores: Floats = self._alignment.agreement(pixels, texts[part]).cpu().numpy()
            return scores

        with torch.inference_mode():
            return np.concatenate(self._in_parts(len(texts), score))


class Seen:
    """Images with what the networks saw in them so far; a part of them shares it."""

    def __init__(self, judging: Judging, images_u8: Images, prompts: Sequence[Prompt]) -> None:
        self._judging = judging
        self._images_u8 = images_u8
        self._prompts = prompts
        self._known = np.zeros(len(images_u8), dtype=bool)
        self._found: tuple[Floats, Floats] | None = None

    def of(self, rows: Rows) -> Glimpse:
        """Returns what filters are shown of some images."""
        return Glimpse(self, rows)

    def look(self, rows: Rows) -> tuple[Floats, Floats]:
        """Returns logits [n, L] and standardised features [n, F] of some images, each looked at once."""
        new = rows[~self._known[rows]]
        if len(new):
            fresh = self._judging.look(self._images_u8[new])
            if self._found is None:
                logits, features = (np.zeros((len(self._known), part.shape[1]), dtype=part.dtype) for part in fresh)
                self._found = logits, features
            for kept, part in zip(self._found, fresh, strict=True):
                kept[new] = part
            self._known[new] = True
        if self._found is None:
            return self._judging.look(self._images_u8[rows])
        logits, features = self._found
        return logits[rows], features[rows]


class Glimpse:
    """The context of some of the images at hand (``filters.spec.Context``)."""

    def __init__(self, seen: Seen, rows: Rows) -> None:
        self._seen = seen
        self._rows = rows

    @cached_property
    def images_u8(self) -> Images:
        """The images, uint8 [n, H, W]."""
        return self._seen._images_u8[self._rows]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What each was asked to show."""
        return [self._seen._prompts[row] for row in self._rows.tolist()]

    @cached_property
    def thumbnails(self) -> Thumbnails:
        return thumbnails(self.images_u8)

    @property
    def labels(self) -> Sequence[Label]:
        return self._seen._judging.judge.labels

    @property
    def training(self) -> TrainingSet:
        return self._seen._judging.training

    def look(self) -> tuple[Floats, Floats]:
        return self._seen.look(self._rows)

    def organs(self) -> npt.NDArray[np.int64] | None:
        return self._seen._judging.organs(self.images_u8)

    def agreement(self) -> Floats:
        return self._seen._judging.agreement(self.images_u8, [prompt.query for prompt in self.prompts])


def glimpses(
    judging: Judging, images_u8: Images, prompts: Sequence[Prompt], size: int
) -> Iterator[tuple[Images, list[Prompt], Glimpse]]:
    """Yields images with their prompts and their context, ``size`` at a time."""
    for start in range(0, len(images_u8), size):
        part = slice(start, start + size)
        images, asked = np.asarray(images_u8[part]), list(prompts[part])
        yield images, asked, Seen(judging, images, asked).of(np.arange(len(images)))
