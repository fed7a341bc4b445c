"""The training images as the tokenizer renders them, while filters are fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medsynth_core.filters.spec import Prompt
from medsynth_core.filters.thumbnails import Images, Thumbnails
from medsynth_core.judging.networks import Floats, Glimpse, Judging, glimpses

_BATCH = 64


@dataclass(frozen=True)
class RenderedReference:
    """What ``Filter.fit`` is given (``filters.spec.Reference``).

    Attributes:
        images_u8: uint8 [R, H, W], a memory map where they are many.
        prompts: what each image shows.
        judging: networks, whose training set these images are.
    """

    images_u8: Images
    prompts: Sequence[Prompt]
    judging: Judging

    @property
    def thumbnails(self) -> Thumbnails:
        return self.judging.training.thumbnails

    @property
    def features(self) -> Floats:
        return self.judging.training.features

    def batches(self) -> Iterator[tuple[Images, list[Prompt], Glimpse]]:
        return glimpses(self.judging, self.images_u8, self.prompts, _BATCH)
