"""Images of one side of the comparison, wherever they are, read one at a time in the sizes that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from medsynth_core.errors import InputError

Images = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Step = tuple[int, Image.Resampling]
"""A square that an image is resized to, whatever its shape, and how."""
_MODES = frozenset(["1", "L", "LA", "P", "RGB", "RGBA"])
_MOST_PIXELS = 64_000_000


@dataclass(frozen=True)
class Pictures:
    """Images with what is known of them.

    Attributes:
        names: paths or ids.
        labels: pathologies of CheXGenBench's of each.
        open: returns the image of a place, mode L, in its own size.
    """

    names: Sequence[str]
    prompts: Sequence[str]
    labels: Sequence[frozenset[str]]
    open: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def places(self, label: str | None) -> Places:
        """Returns the places of the images with a label, all when None, in order."""
        found = [place for place, shown in enumerate(self.labels) if label is None or label in shown]
        return np.array(found, dtype=np.int64)

    def at(self, places: Places) -> Pictures:
        """Returns the images of some places."""
        chosen = places.tolist()
        return Pictures(
            [self.names[place] for place in chosen],
            [self.prompts[place] for place in chosen],
            [self.labels[place] for place in chosen],
            lambda place: self.open(chosen[place]),
        )

    def batches(self, size: int, *steps: Step) -> Iterator[Images]:
        """Yields all images in order, ``size`` at a time, uint8 [n, side, side] after the resizing ``steps``."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield stacked([resized(self.open(place), steps) for place in range(start, stop)])


NOTHING = Pictures([], [], [], lambda place: Image.new("L", (1, 1)))
"""A side without images."""


def of_files(paths: Sequence[Path], prompts: Sequence[str], labels: Sequence[frozenset[str]]) -> Pictures:
    """Returns the images of files."""
    return Pictures([str(path) for path in paths], prompts, labels, lambda place: load_gray(paths[place]))


def check_file(path: Path, where: str) -> None:
    """Raises InputError where a file isn't an image that can be compared; reads its header alone.

    Args:
        where: names the row in a message.
    """
    try:
        with _opened(path):
            pass
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def load_gray(path: Path) -> Image.Image:
    """Returns an image file in gray, mode L, in its own size.

    Raises:
        InputError: it is missing, no image, cut off, larger than 64 million pixels, or of more than 8 bits.
    """
    try:
        with _opened(path) as image:
            return image.convert("RGB").convert("L") if image.mode in ("P", "RGBA") else image.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cut off or damaged ({error}); write it anew") from error


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image; correct the path or name the folder that it is in") from error
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({' '.join(str(error).split())})") from error
    if image.mode not in _MODES:
        raise InputError(f"{path}: an image of mode {image.mode}; save it with 8 bits a channel, gray or RGB")
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(f"{path}: {image.width}x{image.height} pixels; at most {_MOST_PIXELS} are read")
    return image


def as_tensor(images: Images, device: torch.device) -> torch.Tensor:
    """Returns images as networks take them, uint8 [n, H, W]."""
    return torch.from_numpy(images).to(device)


def stacked(images: Sequence[Image.Image]) -> Images:
    """Returns images of one size, mode L, as uint8 [n, H, W]."""
    return np.stack([np.asarray(image) for image in images])


def resized(image: Image.Image, steps: Sequence[Step]) -> Image.Image:
    """Returns an image after some steps; one that has a size already isn't touched."""
    for side, how in steps:
        if image.size != (side, side):
            image = image.resize((side, side), how)
    return image
