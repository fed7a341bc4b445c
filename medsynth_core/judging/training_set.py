"""The training images as filters compare with them: thumbnails, and what the labelling judge sees.

Features are the judge's last stage averaged over places, each brought to mean 0 and deviation 1 over the training
images.

Shapes: R training images, N images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medsynth_core.errors import InputError
from medsynth_core.filters.thumbnails import Thumbnails

Floats = npt.NDArray[np.float32]
CALIBRATE = "run `medsynth calibrate` where the models were trained; those of an earlier version are trained again"
"""What to do when something that filters compare with is missing."""


@dataclass(frozen=True)
class TrainingSet:
    """Training images as the tokenizer renders them.

    Attributes:
        thumbnails: uint8 [R, 256].
        raw_features: float16 [R, F], as the judge gives them.
    """

    FILE: ClassVar = "training.safetensors"

    thumbnails: Thumbnails
    raw_features: npt.NDArray[np.float16]

    @cached_property
    def _spread(self) -> tuple[Floats, Floats]:
        raw = self.raw_features.astype(np.float32)
        return raw.mean(0), raw.std(0) + np.float32(1e-6)

    @cached_property
    def features(self) -> Floats:
        """Standardised features, float32 [R, F]."""
        return self.standardised(self.raw_features.astype(np.float32))

    def standardised(self, raw_NF: Floats) -> Floats:
        """Returns features of any images as deviations from the training images'."""
        mean_F, deviation_F = self._spread
        standard: Floats = (raw_NF - mean_F) / deviation_F
        return standard

    def save(self, folder: Path) -> None:
        """Writes thumbnails and features into the filters' folder."""
        save_file({"thumbnails": self.thumbnails, "features": self.raw_features}, folder / self.FILE)

    @classmethod
    def load(cls, folder: Path) -> TrainingSet:
        """Returns the training images that the filters' folder names.

        Raises:
            InputError: there are none, or they can't be read.
        """
        path = folder / cls.FILE
        try:
            saved = load_file(path)
            return cls(saved["thumbnails"], saved["features"])
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path}: no training images to compare with; {CALIBRATE}") from error
