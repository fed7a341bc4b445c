"""Images as the tokenizer renders them, which is all that a generator can emit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.models.tokenizers import ImageTokenizer

Images = npt.NDArray[np.uint8]
"""uint8 [N, H, W]."""
_BATCH = 32


@torch.inference_mode()
def as_rendered(image_tokenizer: ImageTokenizer, images_u8: Images) -> Images:
    """Returns images uint8 [N, H, W] as the tokenizer renders them from their own codes."""
    device = image_tokenizer.device
    parts = [images_u8[:0]]
    for start in range(0, len(images_u8), _BATCH):
        pixels = to_inputs(images_u8[start : start + _BATCH], device)
        parts += rendered(image_tokenizer, image_tokenizer.encode(pixels))
    return np.concatenate(parts)


def rendered(image_tokenizer: ImageTokenizer, codes_NT: torch.Tensor) -> Iterator[Images]:
    """Yields batches of images as the tokenizer renders them from their codes, int64 [N, T]."""
    for codes in codes_NT.split(_BATCH):
        yield to_images(image_tokenizer.decode(codes.to(image_tokenizer.device)))
