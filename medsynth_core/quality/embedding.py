"""The judge's features of images, and of the training images, which a language model's folder carries.

Features are the last stage averaged over places, each brought to mean 0 and deviation 1 over the training images.

Shapes: N images, R training images, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsynth_core.errors import InputError
from medsynth_core.models.judge import Judge
from medsynth_core.models.pixels import to_inputs
from medsynth_core.quality.filters import Images

Floats = npt.NDArray[np.floating[Any]]
_REFERENCE = "training_features.npy"


@torch.inference_mode()
def see(judge: Judge, images_u8: Images) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the judge's calibrated logits, float32 [N, L], and the features, float32 [N, F], of images uint8
    [N, H, W]."""
    device = next(judge.parameters()).device
    logits, grid = judge.see(to_inputs(images_u8, device))
    return logits.cpu().numpy(), grid.mean((2, 3)).float().cpu().numpy()


def save_features(folder: Path, training_RF: Floats) -> None:
    """Writes the features of the training images into a model's folder, as float16."""
    np.save(folder / _REFERENCE, training_RF.astype(np.float16), allow_pickle=False)


class Embedding:
    """Training images in the judge's features.

    Attributes:
        judge: whose features they are.
        training_RF: float32, standardised.
    """

    def __init__(self, judge: Judge, training_RF: Floats) -> None:
        """Takes the features of the training images as ``see`` gives them; one or more."""
        self.judge = judge
        raw_RF = training_RF.astype(np.float32)
        self._mean_F = raw_RF.mean(0)
        self._deviation_F = raw_RF.std(0) + np.float32(1e-6)
        self.training_RF = self._standardised(raw_RF)

    @classmethod
    def load(cls, folder: Path, judge: Judge) -> Embedding:
        """Returns the training images that a model's folder names.

        Raises:
            InputError: their features aren't there, or aren't the judge's.
        """
        try:
            training_RF = np.load(folder / _REFERENCE, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / _REFERENCE}: no features of training images; retrain the model") from error
        if training_RF.shape[1:] != (judge.net.config.channels[-1],):
            raise InputError(
                f"{folder / _REFERENCE}: {training_RF.shape[1:]} features an image, the judge has "
                f"{judge.net.config.channels[-1]}; retrain the model"
            )
        return cls(judge, training_RF)

    def __call__(self, images_u8: Images) -> npt.NDArray[np.float32]:
        """Returns the standardised features of images uint8 [N, H, W], float32 [N, F]."""
        return self.see(images_u8)[1]

    def see(self, images_u8: Images) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns the judge's logits, float32 [N, L], and the standardised features, both of one pass."""
        logits_NL, raw_NF = see(self.judge, images_u8)
        return logits_NL, self._standardised(raw_NF)

    def _standardised(self, raw_NF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        standard: npt.NDArray[np.float32] = (raw_NF - self._mean_F) / self._deviation_F
        return standard
