"""The FID's Inception v3, with pytorch-fid's weights: of torch's cache, or of a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_fid import inception as fid
from torch import Tensor, nn
from torchvision.models import inception_v3

from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.errors import InputError

PLACE = "optional"


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features.

    Raises:
        InputError: the weights are missing, damaged, or of another network.
    """
    return InceptionFeatures(_find_weights(place, paths))


def check(place: str, paths: Paths) -> None:
    """Checks that there are weights.

    Raises:
        InputError: there are none.
    """
    _find_weights(place, paths)


class InceptionFeatures(nn.Module):
    """The 2048 features of the FID's Inception v3, as pytorch-fid takes them: 299 x 299, bilinear."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        net = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
        # the blocks in which TensorFlow's network differs, as in pytorch_fid.inception.fid_inception_v3
        net.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
        net.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
        net.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
        net.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
        net.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
        net.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
        net.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
        net.Mixed_7b = fid.FIDInceptionE_1(1280)
        net.Mixed_7c = fid.FIDInceptionE_2(2048)
        try:
            net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
            raise InputError(f"{weights}: not pytorch-fid's Inception ({str(error).splitlines()[0]})") from error
        net.fc = nn.Identity()
        self.net = net

    def forward(self, images_BHW: Tensor) -> Tensor:
        pixels_B3HW = images_BHW[:, None].float().expand(-1, 3, -1, -1) / 255.0
        resized = F.interpolate(pixels_B3HW, (299, 299), mode="bilinear", align_corners=False)
        features: Tensor = self.net(2 * resized - 1)
        return features


def _find_weights(place: str, paths: Paths) -> Path:
    """Returns the file of Inception weights: ``place``, relative to the workspace, or pytorch-fid's when empty.

    Raises:
        InputError: it is missing.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(fid.FID_WEIGHTS_URL).name
    weights = file_at(place, paths) if place else cached
    if not weights.is_file():
        raise InputError(
            f"{weights}: no Inception weights there; fetch {fid.FID_WEIGHTS_URL}, "
            f"and name the file in evaluation.extractors as inception:FILE"
        )
    return weights
