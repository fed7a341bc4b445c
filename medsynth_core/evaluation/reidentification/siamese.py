"""The Siamese ResNet-50 that tells whether two chest radiographs are of one patient, by its file (K. Packhäuser et al.,
*Deep learning-based patient re-identification is able to exploit the biometric nature of medical chest X-ray data*,
Scientific Reports 12, 2022).

The file is a ``state_dict`` of CheXGenBench's network (metrics/privacy_metrics.py of Raman1121/CheXGenBench): a
ResNet-50 whose last layer has 128 outputs, squashed to 0..1, and a linear layer on the absolute difference of two
images' outputs. Images are 224 x 224, gray on three channels, in 0..1 without further normalisation.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.errors import InputError
from medsynth_core.evaluation.networks import as_pixels
from medsynth_core.evaluation.weights import read_state, restore_others
from medsynth_core.models.reidentification import VerificationNetwork

PLACE = "needed"
_SIDE = 224


def open_reidentifier(place: str, paths: Paths) -> SiameseNetwork:
    """Returns the network.

    Raises:
        InputError: the file is missing, damaged, or another network's.
    """
    path, net = _file(place, paths), SiameseNetwork()
    restore_others(net, read_state(path, "re-identification"), path, "the Siamese ResNet-50 of CheXGenBench", ())
    return net.eval()


def check(place: str, paths: Paths) -> None:
    """Checks that the file is there.

    Raises:
        InputError: it isn't.
    """
    _file(place, paths)


class SiameseNetwork(VerificationNetwork):
    """Modules are called as in its checkpoint."""

    same_patient: float | None = 0.5

    def __init__(self) -> None:
        super().__init__(_SIDE, "unit")

    @torch.inference_mode()
    def encode(self, images_BHW: Tensor) -> Tensor:
        """Returns features in 0..1, float32 [B, 128]."""
        return self(as_pixels(images_BHW))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def scores(self, one_PF: Tensor, other_PF: Tensor) -> Tensor:
        """Returns the network's probability that both are one patient's, float32 [P]."""
        return torch.sigmoid(self.fc_end((one_PF - other_PF).abs()))[:, 0]


def _file(place: str, paths: Paths) -> Path:
    path = file_at(place, paths)
    if not path.is_file():
        raise InputError(f"{path}: no re-identification weights there")
    return path
