"""Networks whose features are compared; each takes uint8 images [B, H, W] and returns float32 [B, F].

Gray images are replicated to three channels where the network has three, and resized and normalised as it asks.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_fid import inception as fid
from torch import Tensor, nn
from torchvision.models import inception_v3
from transformers import BatchFeature

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.judging.calibrated import JUDGE
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.torchxrayvision import XRayDenseNet
from medsynth_core.training.features import load_image_encoder

_OURS = {"judge": ("calibrate", JUDGE), "classifier": ("classifier", "")}
"""Model and place in it of our own finding classifiers."""


def load_extractor(name: str, paths: Paths) -> nn.Module:
    """Returns the network of one of ``evaluation.extractors``, in evaluation mode.

    Raises:
        InputError: its weights are missing, damaged, or of another network.
    """
    kind, _, place = name.partition(":")
    if kind in _OURS:
        model, inside = _OURS[kind]
        net: nn.Module = ClassifierFeatures(FindingClassifier.load(paths[model] / inside))
    elif kind == "torchxrayvision":
        net = XRayFeatures(load_torchxrayvision(place, paths))
    elif kind == "inception":
        net = InceptionFeatures(find_inception(place, paths))
    else:
        net = EncoderFeatures(place)
    return net.eval().requires_grad_(False)


def find_inception(place: str, paths: Paths) -> Path:
    """Returns the file of Inception weights: ``place``, relative to the workspace, or pytorch-fid's when empty.

    Raises:
        InputError: it is missing.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(fid.FID_WEIGHTS_URL).name
    weights = paths.root / Path(place).expanduser() if place else cached
    if not weights.is_file():
        raise InputError(
            f"{weights}: no Inception weights there; fetch {fid.FID_WEIGHTS_URL}, "
            f"and name the file in evaluation.extractors as inception:FILE"
        )
    return weights


def load_torchxrayvision(place: str, paths: Paths) -> XRayDenseNet:
    """Returns the network of a file, relative to the workspace.

    Raises:
        InputError: it is missing, or another network's.
    """
    return XRayDenseNet.load(paths.root / Path(place).expanduser())


def as_pixels(images_BHW: Tensor) -> Tensor:
    """Returns uint8 images as pixels, float32 [B, 1, H, W] in [-1, 1]."""
    return images_BHW[:, None].float() / 127.5 - 1.0


class ClassifierFeatures(nn.Module):
    """A finding classifier's last stage, averaged over places."""

    def __init__(self, net: FindingClassifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_BHW: Tensor) -> Tensor:
        return self.net.features(as_pixels(images_BHW))[-1].mean((2, 3))


class XRayFeatures(nn.Module):
    """The 1024 features of a DenseNet-121 of torchxrayvision."""

    def __init__(self, net: XRayDenseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_BHW: Tensor) -> Tensor:
        return self.net.features(as_pixels(images_BHW))


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


class EncoderFeatures(nn.Module):
    """Any transformers image encoder: the last layer's class token, or its mean over places where it has none.

    The pooler isn't used: a checkpoint without one gets random weights for it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net, self._processor = load_image_encoder(name)
        self._has_class_token = any(
            key.endswith(("cls_token", "class_embedding")) for key, _ in self.net.named_parameters()
        )

    def forward(self, images_BHW: Tensor) -> Tensor:
        images_B3HW = images_BHW[:, None].expand(-1, 3, -1, -1)
        batch: BatchFeature = self._processor(
            images=list(images_B3HW), return_tensors="pt", input_data_format="channels_first"
        )
        hidden: Tensor = self.net(batch["pixel_values"].to(images_BHW.device)).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3)).float()
        return (hidden[:, 0] if self._has_class_token else hidden.mean(1)).float()
