"""Networks that tell whether two films are of the same patient: ours, and the one that others publish.

Ours gives each film a place on a sphere, near to that of another film of the patient (training.reidentification). The
published ones are K. Packhäuser et al.'s (*Deep learning-based patient re-identification is able to exploit the
biometric nature of medical chest X-ray data*, Scientific Reports 12, 2022) and CheXGenBench's, who trained the same
network on MIMIC-CXR (R. Dutt et al., arXiv:2505.10496): torchvision's ResNet-50 with 128 features, and a linear layer
on the absolute differences of their sigmoids. Their files are pickled, which nothing here opens; where a file is
trusted, a safetensors file is made of it:

    import torch
    from safetensors.torch import save_file
    state = torch.load("ResNet-50_epoch11_data_handling_RPN.pth", map_location="cpu", weights_only=True)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, "reidentification.safetensors", {"side": "224", "scale": "unit"})

CheXGenBench shows its network films of 224 pixels in [0, 1] ("unit"); Packhäuser's sees 256 pixels, normalised as
ImageNet's are ("side": "256", "scale": "imagenet"). LCMem's (arXiv:2512.14421) sees latents of Stable Diffusion's
autoencoder, which isn't at hand: its files are refused as another network's.

Shapes: B, N, M films, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torchvision.models import resnet50

from medsynth_core.errors import InputError
from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.classifier import placed_head, trunk, without_exposure

Floats = npt.NDArray[np.floating[Any]]
FEATURES = 64
_DROPOUT = 0.3
_SCALES = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation, of pixels in [0, 1], that are taken out of each channel."""
_FEATURES_OF_OTHERS = 128


class PatientEncoder(nn.Module):
    """The finding classifier's stages and head, with a place on the unit sphere for output: of a film and its mirror
    image the same one."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.stages = trunk(channels)
        self.head = placed_head(self.channels[-1], _DROPOUT, FEATURES)

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns places of length 1, float32 [B, F], of films in [-1, 1]; exposure is taken out."""
        plain = without_exposure(pixels_B1HW)
        grid = torch.cat([plain, plain.flip(3)])
        for stage in self.stages:
            grid = stage(grid)
        one, mirrored = self.head(grid).float().chunk(2)
        return F.normalize(one + mirrored, dim=1)

    def save(self, folder: Path, key: str) -> None:
        """Writes weights and config into ``folder``.

        Args:
            key: names what it learnt from.
        """
        about = {"kind": "reidentification", "channels": self.channels, "key": key}
        save_weights(folder, self.state_dict(), about)

    @classmethod
    def load(cls, folder: Path, key: str) -> PatientEncoder | None:
        """Returns the saved network in evaluation mode; None where it learnt from something else.

        Raises:
            InputError: the folder holds none, or its weights don't fit its config.
        """
        state, about = load_weights(folder, "reidentification")
        if about["key"] != key:
            return None
        model = cls(about["channels"])
        restore(model, state, folder)
        return model.eval()


class VerificationNetwork(nn.Module):
    """Packhäuser's network: a ResNet-50's 128 features through a sigmoid, and ``fc_end`` on absolute differences.

    Attributes:
        side: pixels a side that it is shown.
    """

    mean_3: Tensor
    deviation_3: Tensor

    def __init__(self, side: int, scale: str) -> None:
        """Takes the side in pixels and how they are scaled, unit or imagenet."""
        super().__init__()
        self.side = side
        self.model = resnet50(num_classes=_FEATURES_OF_OTHERS)
        self.fc_end = nn.Linear(_FEATURES_OF_OTHERS, 1)
        for name, values in zip(("mean_3", "deviation_3"), _SCALES[scale], strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    @classmethod
    def load(cls, path: Path) -> VerificationNetwork:
        """Returns the network of a safetensors file, in evaluation mode.

        Raises:
            InputError: the file is missing, no safetensors file with the metadata ``side`` and ``scale``, or of another
                network.
        """
        if not path.is_file():
            raise InputError(f"{path}: no weights of a re-identification network there")
        try:
            with safe_open(path, framework="pt") as stream:
                about = stream.metadata() or {}
                side, scale = int(about["side"]), about["scale"]
                state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: not a safetensors file with the metadata `side` and `scale` ({error}); published networks "
                f"are pickled files, which aren't opened: help({__name__}) says how to convert one"
            ) from error
        if scale not in _SCALES or side < 1:
            raise InputError(f"{path}: scale is {scale!r} and side {side}, expected {' or '.join(_SCALES)} and pixels")
        network = cls(side, scale)
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: not Packhäuser's Siamese ResNet-50 ({problem})") from error
        return network.eval()

    def forward(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns features in [0, 1], float32 [B, 128], of films in [-1, 1]."""
        resized = F.interpolate(pixels_B1HW, (self.side, self.side), mode="bilinear", antialias=True)
        grey_B3HW = ((resized + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
        scaled = (grey_B3HW - self.mean_3[:, None, None]) / self.deviation_3[:, None, None]
        return torch.sigmoid(self.model(scaled))

    def logits(self, from_NF: Floats, to_MF: Floats) -> Floats:
        """Returns of features [N, F] and [M, F] how much each pair speaks for one patient, float64 [N, M]; above 0: for
        it."""
        weight_F = self.fc_end.weight[0].detach().double().cpu().numpy()
        pairs: Floats = np.full((len(from_NF), len(to_MF)), self.fc_end.bias.item())
        for sign in (1.0, -1.0):  # cdist takes no weights below 0
            pairs += sign * cdist(from_NF, to_MF, "cityblock", w=np.maximum(sign * weight_F, 0.0))
        return pairs

    def distances(self, from_NF: Floats, to_MF: Floats) -> Floats:
        """Returns of features [N, F] and [M, F] minus the log of the probability that a pair is of one patient, [N, M]:
        0 for sure, and in the order of ``logits``."""
        distances: Floats = np.logaddexp(0.0, -self.logits(from_NF, to_MF))
        return distances
