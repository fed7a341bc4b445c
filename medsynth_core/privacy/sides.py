"""The images that privacy is measured on: synthetic ones, training ones, and real ones that no model learnt from.

Real images are compared as the tokenizer renders them, which is all that a generator can emit: a memorised image lies
at distance 0. Held-out images are those of the split ``test``, the attacker's own those of ``val``.

Shapes: N images, F coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from medsynth_core.progress import Progress, silent
from medsynth_core.training.pairs import Pairs, read_pairs

Floats = npt.NDArray[np.floating[Any]]
_BATCH = 256


@dataclass(frozen=True)
class Films:
    """Real images as the tokenizer renders them.

    Attributes:
        pairs: the originals, with patients and conditions.
    """

    pairs: Pairs
    image_tokenizer: ImageTokenizer

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def patients(self) -> list[str]:
        """Of each image."""
        return self.pairs.patients

    @cached_property
    def images_u8(self) -> Images:
        """All images, uint8 [N, H, W], rendered once."""
        return np.concatenate(list(self.batches(silent)))

    def batches(self, progress: Progress) -> Iterator[Images]:
        """Yields images, uint8 [n, H, W], some at a time."""
        for start in range(0, len(self), _BATCH):
            progress(start, len(self), "real images")
            yield as_rendered(self.image_tokenizer, self.pairs.images(start, start + _BATCH))

    def take(self, picks: Sequence[int]) -> Films:
        """Returns some images, in the order of their places."""
        return replace(self, pairs=self.pairs.take(picks))


@dataclass(frozen=True)
class Sides:
    """What an attacker is given.

    Attributes:
        image_tokenizer, alignment: on the stage's device.
        synthetic: uint8 [N, H, W].
        training, held_out, reference: real images.
        known: thumbnails and features of the training images, in their order.
    """

    params: PrivacyParams
    paths: Paths
    progress: Progress
    image_tokenizer: ImageTokenizer
    alignment: AlignmentModel
    codebook: VisualCodebook
    synthetic: Images
    training: Films
    held_out: Films
    reference: Films
    known: TrainingSet

    @classmethod
    def read(
        cls, params: PrivacyParams, paths: Paths, synthetic: Images, codebook: VisualCodebook, progress: Progress
    ) -> Sides:
        """Returns the sides of some synthetic images in a workspace.

        Raises:
            InputError: a model or a split is missing, or the training images aren't those of the corpus.
        """
        device, known = pick_device(params.device), TrainingSet.load(paths["calibrate"])
        image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
        alignment = AlignmentModel.load(paths["alignment"]).to(device)
        training, held_out, reference = (
            Films(read_pairs(paths, split), image_tokenizer) for split in ("train", "test", "val")
        )
        if len(training) != len(known.thumbnails):
            raise InputError(
                f"{paths['calibrate']}: of {len(known.thumbnails)} training images, the corpus has {len(training)}; "
                f"{CALIBRATE}"
            )
        models = (image_tokenizer, alignment, codebook)
        return cls(params, paths, progress, *models, synthetic, training, held_out, reference, known)

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self.alignment.device

    def space(self, name: str, metric: Metric, embed: Callable[[Images], Floats], known: Floats | None = None) -> Space:
        """Returns all sides in a space.

        Args:
            embed: returns coordinates [n, F] of images uint8 [n, H, W].
            known: the training images' coordinates, where they are at hand; else they are rendered and embedded.
        """
        if known is None:
            known = np.concatenate([embed(batch) for batch in self.training.batches(self.progress)])
        return Space(
            name,
            metric,
            embed(self.synthetic),
            known,
            embed(self.held_out.images_u8),
            embed(self.reference.images_u8),
            self.training.patients,
            self.held_out.patients,
        )
