"""The images that privacy is measured on: synthetic ones, training ones, and real ones that no model learnt from.

Real images are compared as the tokenizer renders them, which is all that a generator can emit: a memorised image lies
at distance 0. Held-out images are those of the split ``test``, the attacker's own those of ``val``.

Shapes: N images, F coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.filters.thumbnails import Images
from medsynth_core.judging.training_set import CALIBRATE, TrainingSet
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import pick_device
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.privacy.settings import PrivacyParams
from medsynth_core.privacy.space import Metric, Space
from medsynth_core.progress import Progress
from medsynth_core.training.pairs import Pairs, read_pairs

Floats = npt.NDArray[np.floating[Any]]
_BATCH = 256


@dataclass(frozen=True)
class Sides:
    """What an attacker is given.

    Attributes:
        image_tokenizer, alignment: on the stage's device.
        synthetic: uint8 [N, H, W].
        training, held_out, reference: real images, with patients and conditions.
        known: thumbnails and features of the training images, in their order.
    """

    params: PrivacyParams
    paths: Paths
    progress: Progress
    image_tokenizer: ImageTokenizer
    alignment: AlignmentModel
    codebook: VisualCodebook
    synthetic: Images
    training: Pairs
    held_out: Pairs
    reference: Pairs
    known: TrainingSet

    @classmethod
    def read(
        cls, params: PrivacyParams, paths: Paths, synthetic: Images, codebook: VisualCodebook, progress: Progress
    ) -> Sides:
        """Returns the sides of some synthetic images in a workspace.

        Raises:
            InputError: a model or a split is missing, or the training images aren't those of the corpus.
        """
        device = pick_device(params.device)
        training, known = read_pairs(paths, "train"), TrainingSet.load(paths["calibrate"])
        if len(training) != len(known.thumbnails):
            raise InputError(
                f"{paths['calibrate']}: of {len(known.thumbnails)} training images, the corpus has {len(training)}; "
                f"{CALIBRATE}"
            )
        return cls(
            params,
            paths,
            progress,
            load_image_tokenizer(paths["vqgan"]).to(device),
            AlignmentModel.load(paths["alignment"]).to(device),
            codebook,
            synthetic,
            training,
            read_pairs(paths, "test"),
            read_pairs(paths, "val"),
            known,
        )

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self.alignment.device

    @cached_property
    def held_out_u8(self) -> Images:
        """Held-out images as the tokenizer renders them, uint8 [N, H, W]."""
        return self._rendered(self.held_out)

    @cached_property
    def reference_u8(self) -> Images:
        """The attacker's own images as the tokenizer renders them, uint8 [N, H, W]."""
        return self._rendered(self.reference)

    def training_u8(self) -> Iterator[Images]:
        """Yields the training images as the tokenizer renders them, uint8 [n, H, W], some at a time."""
        for start in range(0, len(self.training), _BATCH):
            self.progress(start, len(self.training), "training images")
            yield as_rendered(self.image_tokenizer, self.training.images(start, start + _BATCH))

    def space(self, name: str, metric: Metric, embed: Callable[[Images], Floats], known: Floats | None = None) -> Space:
        """Returns all sides in a space.

        Args:
            embed: returns coordinates [n, F] of images uint8 [n, H, W].
            known: the training images' coordinates, where they are at hand; else they are rendered and embedded.
        """
        if known is None:
            known = np.concatenate([embed(batch) for batch in self.training_u8()])
        return Space(
            name,
            metric,
            embed(self.synthetic),
            known,
            embed(self.held_out_u8),
            embed(self.reference_u8),
            self.training.patients,
            self.held_out.patients,
        )

    def _rendered(self, pairs: Pairs) -> Images:
        return as_rendered(self.image_tokenizer, pairs.images(0, len(pairs)))
