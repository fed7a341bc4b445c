"""Image and text encoders of transformers: one folder of a dual encoder (CLIP, SigLIP, a VisionTextDualEncoder, ...),
or two, ``IMAGE+TEXT``, each with a projection of its own into the common space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.models.pretrained import check_pretrained, load_pretrained
from medsynth_core.models.text import load_tokenizer

PLACE = "needed"
_WHERE = "the image-text pair"
_LONGEST = 512
"""Tokens of a text at most, where the tokenizer doesn't know better."""


def open_pair(place: str, paths: Paths) -> TransformersPair:
    """Returns the encoders of ``FOLDER`` (or a name that the hub's cache has), or of ``IMAGE+TEXT``.

    Raises:
        InputError: they can't be loaded, or don't project into a common space.
    """
    image, text = _parts(place)
    if text is None:
        both = load_pretrained(AutoModel, image, _WHERE)
        if not (hasattr(both, "get_image_features") and hasattr(both, "get_text_features")):
            raise InputError(
                f"{_WHERE} {image!r}: {type(both).__name__} has no get_image_features and get_text_features; name a "
                f"dual encoder (CLIP, SigLIP, VisionTextDualEncoder), or two as IMAGE+TEXT"
            )
        return TransformersPair(both, both, image, image)
    return TransformersPair(_projecting(image), _projecting(text), image, text)


def check(place: str, paths: Paths) -> None:
    """Checks that the encoders can be found.

    Raises:
        InputError: they can't.
    """
    image, text = _parts(place)
    check_pretrained(_WHERE, image, sees=True)
    if text is not None:
        check_pretrained(_WHERE, text)


class TransformersPair:
    """Encoders with their own preparation of images and texts."""

    def __init__(self, image_net: nn.Module, text_net: nn.Module, image_name: str, text_name: str) -> None:
        self.image_net, self.text_net = image_net.eval(), text_net.eval()
        try:
            self._processor = AutoImageProcessor.from_pretrained(image_name)
        except (OSError, ValueError) as error:
            raise InputError(f"{_WHERE} {image_name!r}: no preprocessor_config.json ({_line(error)})") from error
        self._tokenizer = load_tokenizer(text_name)
        positions = _positions(self.text_net.config)
        self._longest = min(self._tokenizer.model_max_length, positions or _LONGEST)
        self._width = self.encode_texts(["chest"]).shape[1]

    def to(self, device: torch.device) -> TransformersPair:
        """Moves both networks."""
        self.image_net.to(device)
        self.text_net.to(device)
        return self

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Returns float32 [B, D]; gray becomes three channels."""
        batch = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        pixels = batch["pixel_values"].to(_device(self.image_net))
        features = _projected(self.image_net, "image", pixel_values=pixels)
        if features.shape[1] != self._width:
            raise InputError(
                f"{_WHERE}: images have {features.shape[1]} features and texts {self._width}; the encoders don't "
                f"project into one space"
            )
        return features

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns float32 [B, D]; texts are cut to what the encoder has room for."""
        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(_device(self.text_net))
        known = {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}
        return _projected(self.text_net, "text", **known)


def _parts(place: str) -> tuple[str, str | None]:
    """Returns the one folder, or the two."""
    if Path(place).is_dir() or "+" not in place:
        return place, None
    image, _, text = place.partition("+")
    return image, text


def _projecting(name: str) -> nn.Module:
    """Returns an encoder with its projection, of the class that its config names."""
    check_pretrained(_WHERE, name)
    named = (AutoConfig.from_pretrained(name).architectures or [""])[0]
    kind = getattr(transformers, named, None)
    if kind is None or not named.endswith("WithProjection"):
        raise InputError(
            f"{_WHERE} {name!r}: {named or 'no architecture'} in config.json; of two folders each needs an encoder "
            f"with its projection, such as CLIPVisionModelWithProjection and CLIPTextModelWithProjection"
        )
    return load_pretrained(kind, name, _WHERE)


def _projected(net: nn.Module, what: str, **inputs: Any) -> Tensor:
    """Returns the projected features of one modality, L2-normalised float32 [B, D]."""
    method = getattr(net, f"get_{what}_features", None)
    found = method(**inputs) if method is not None else getattr(net(**inputs), f"{what}_embeds")
    if not isinstance(found, Tensor):  # transformers 5 wraps them
        found = found.pooler_output
    return F.normalize(found.float(), dim=-1)


def _positions(config: Any) -> int | None:
    inner = getattr(config, "text_config", config)
    return getattr(inner, "max_position_embeddings", None)


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
