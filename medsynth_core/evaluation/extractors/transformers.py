"""Any image encoder of transformers, by name or folder (RAD-DINO, ...)."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BatchFeature

from medsynth_core.config import Paths
from medsynth_core.models.pretrained import check_pretrained
from medsynth_core.training.features import load_image_encoder

PLACE = "needed"


def open_extractor(place: str, paths: Paths) -> nn.Module:
    """Returns its features.

    Raises:
        InputError: the name or folder holds none.
    """
    return EncoderFeatures(place)


def check(place: str, paths: Paths) -> None:
    """Checks that the encoder can be found.

    Raises:
        InputError: it can't.
    """
    check_pretrained("evaluation.extractors", place, sees=True)


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
