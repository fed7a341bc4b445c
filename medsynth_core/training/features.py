"""Distances between images in the feature space of a frozen network: the clinical and the perceptual term."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from medsynth_core.errors import InputError
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.pretrained import load_pretrained


def load_image_encoder(name: str) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Returns a transformers image encoder and its image processor.

    Raises:
        InputError: the name or folder holds none.
    """
    net = load_pretrained(AutoModel, name, "the image encoder")
    try:
        return net, AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the image encoder {name!r} can't be loaded ({str(error).splitlines()[0]}): "
            f"give a transformers name or folder with config, weights and preprocessor_config.json"
        ) from error


class ImageEncoder(nn.Module):
    """The hidden states of any transformers image encoder (a ResNet, a ViT, RAD-DINO ...)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net, processor = load_image_encoder(name)
        self.side: int | None = getattr(self.net.config, "image_size", None)
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(processor.image_std).view(1, -1, 1, 1), persistent=False)

    def features(self, pixels_B1HW: Tensor) -> list[Tensor]:
        """Returns the hidden states, images resized to the encoder's own side where it has one."""
        pixels = (pixels_B1HW + 1.0) / 2.0
        if self.side is not None and pixels.shape[-1] != self.side:
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        return list(self.net((pixels - self.mean) / self.std, output_hidden_states=True).hidden_states)


class FeatureDistance(nn.Module):
    """Squared distance of features relative to their mean square, averaged over depths (after LLM-CXR, sec. 3.1)."""

    def __init__(self, net: FindingClassifier | ImageEncoder) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def forward(self, fake_B1HW: Tensor, real_B1HW: Tensor) -> Tensor:
        """Returns a scalar; gradients reach ``fake_B1HW`` alone."""
        with torch.no_grad():
            wanted = self.net.features(real_B1HW)
        found = self.net.features(fake_B1HW)
        terms = [
            (a - b).float().square().mean() / b.float().square().mean().clamp(min=1e-6)
            for a, b in zip(found, wanted, strict=True)
        ]
        return torch.stack(terms).mean()
