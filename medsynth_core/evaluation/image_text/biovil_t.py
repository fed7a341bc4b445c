"""BioViL-T by its folder, with torch, torchvision and transformers alone (S. Bannur et al., *Learning to exploit
temporal structure for biomedical vision-language processing*, CVPR 2023, arXiv:2301.04558).

The folder is a copy of ``microsoft/BiomedVLP-BioViL-T``: ``biovil_t_image_model_proj_size_128.pt`` of the image model;
``config.json``, ``vocab.txt`` and ``model.safetensors`` (or ``pytorch_model.bin``) of CXR-BERT. What is computed
follows microsoft/hi-ml, hi-ml-multimodal (image/model/encoder.py, image/model/model.py, image/data, text/): grey values
stretched to 0..255, the shorter side resized to 512, the centre 448 x 448 cut out; a ResNet-50 to 14 x 14 cells, each
beside the embedding that stands for the missing earlier film; a projection to 128, averaged over cells. Of a text, the
class token's projection to 128.

Shapes: B images or texts, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.transforms import functional as transforms
from transformers import BertConfig, BertModel, BertTokenizer

from medsynth_core.config import Paths
from medsynth_core.config.entries import file_at
from medsynth_core.errors import InputError
from medsynth_core.evaluation.weights import read_state, restore_others

PLACE = "needed"
IMAGE_WEIGHTS = "biovil_t_image_model_proj_size_128.pt"
IMAGE_WEIGHTS_MD5 = "a83080e2f23aa584a4f2b24c39b1bb64"
"""Of the published file, as hi-ml's image/model/pretrained.py has it."""
_TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_RESIZED, _SIDE = 512, 448
_CELLS, _JOINT = 256, 128


def open_pair(place: str, paths: Paths) -> BioViLT:
    """Returns the encoders.

    Raises:
        InputError: a file is missing, damaged, or of another network.
    """
    folder = _folder(place, paths)
    return BioViLT(_image_model(folder), _text_model(folder), _tokenizer(folder))


def check(place: str, paths: Paths) -> None:
    """Checks that all files are there.

    Raises:
        InputError: one isn't.
    """
    _folder(place, paths)


class BioViLT:
    """Both encoders with their preparation of films and texts."""

    def __init__(self, image_model: BioViLTImageModel, text_model: CXRBert, tokenizer: BertTokenizer) -> None:
        self.image_model, self.text_model = image_model.eval(), text_model.eval()
        self._tokenizer = tokenizer

    def to(self, device: torch.device) -> BioViLT:
        """Moves both."""
        self.image_model.to(device)
        self.text_model.to(device)
        return self

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Returns float32 [B, 128]."""
        device = self.image_model.encoder.missing_previous_emb.device
        return F.normalize(self.image_model(torch.stack([_prepared(image) for image in images]).to(device)), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns float32 [B, 128]. As in hi-ml a text loses the marks at its end; unlike there, where it is an error,
        one of more tokens than BERT has places for is cut."""
        batch = self._tokenizer(
            [text.rstrip("!?.") for text in texts],
            padding=True,
            truncation=True,
            max_length=self.text_model.bert.config.max_position_embeddings,
            return_tensors="pt",
        )
        device = self.text_model.cls_projection_head.dense_to_output.weight.device
        ids, mask = (batch[key].to(device) for key in ("input_ids", "attention_mask"))
        return F.normalize(self.text_model(ids, mask), dim=-1)


class BioViLTImageModel(nn.Module):
    """The image model, for a film without an earlier one; modules are called as in its checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.projector = _Projector()

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Returns float32 [B, 128], not normalised, of pixels in 0..1."""
        projected: Tensor = self.projector.model(self.encoder(pixels_B3HW))
        return projected.mean((2, 3))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = resnet50(weights=None)
        self.encoder.avgpool = self.encoder.fc = nn.Identity()
        self.backbone_to_vit = nn.Conv2d(2048, _CELLS, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, _CELLS, 1, 1))

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        net, hidden = self.encoder, pixels_B3HW
        for block in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            hidden = getattr(net, block)(hidden)
        cells = self.backbone_to_vit(hidden)
        return torch.cat([cells, self.missing_previous_emb.expand_as(cells)], 1)


class _Projector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(2 * _CELLS, _JOINT, 1, bias=False),
            nn.BatchNorm2d(_JOINT),
            nn.ReLU(),
            nn.Conv2d(_JOINT, _JOINT, 1),
        )


class CXRBert(nn.Module):
    """A BERT with the projection of its class token; modules are called as in its checkpoint."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls_projection_head = _ProjectionHead(config.hidden_size, config.projection_size)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Returns float32 [B, projection_size], not normalised."""
        hidden_BSC = self.bert(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
        projected: Tensor = self.cls_projection_head(hidden_BSC[:, 0])
        return projected


class _ProjectionHead(nn.Module):
    def __init__(self, width: int, projected: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, projected)
        self.LayerNorm = nn.LayerNorm(projected, eps=1e-12)
        self.dense_to_output = nn.Linear(projected, projected)

    def forward(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.dense_to_output(self.LayerNorm(F.gelu(self.dense_to_hidden(hidden))))
        return projected


def _prepared(image: Image.Image) -> Tensor:
    """Returns a film as the image model wants it, float32 [3, 448, 448] in 0..1; one of a single grey is black."""
    values = np.asarray(image, dtype=np.float64)
    values = (values - values.min()) / (np.ptp(values) or 1.0) * 255
    film = transforms.resize(Image.fromarray(values.astype(np.uint8)), _RESIZED)
    return transforms.to_tensor(transforms.center_crop(film, [_SIDE, _SIDE])).expand(3, -1, -1)


def _folder(place: str, paths: Paths) -> Path:
    folder = file_at(place, paths)
    missing = [name for name in (IMAGE_WEIGHTS, "config.json", "vocab.txt") if not (folder / name).is_file()]
    missing += [] if _text_weights(folder) else [_TEXT_WEIGHTS[0]]
    if missing:
        raise InputError(
            f"{folder}: no {missing[0]} there; BioViL-T is a folder with all files of microsoft/BiomedVLP-BioViL-T"
        )
    return folder


def _text_weights(folder: Path) -> Path | None:
    return next((folder / name for name in _TEXT_WEIGHTS if (folder / name).is_file()), None)


def _image_model(folder: Path) -> BioViLTImageModel:
    path, model = folder / IMAGE_WEIGHTS, BioViLTImageModel()
    unused = ("encoder.vit_pooler.", "encoder.encoder.fc.")  # for an earlier film; of ImageNet
    restore_others(model, read_state(path, "BioViL-T"), path, "BioViL-T's image model", unused)
    return model


def _text_model(folder: Path) -> CXRBert:
    try:
        said = json.loads((folder / "config.json").read_text("utf-8"))
        config = BertConfig(**{key: value for key, value in said.items() if key not in {"auto_map", "architectures"}})
        model = CXRBert(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.json'}: not CXR-BERT's ({error})") from error
    path = _text_weights(folder)
    assert path is not None
    unused = ("cls.", "bert.embeddings.position_ids", "bert.pooler.")  # of masked words; of older transformers
    restore_others(model, read_state(path, "CXR-BERT"), path, "CXR-BERT", unused)
    return model


def _tokenizer(folder: Path) -> BertTokenizer:
    try:
        return BertTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no tokenizer there ({str(error).splitlines()[0]})") from error
