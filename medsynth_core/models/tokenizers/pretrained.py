"""Image tokenizers that others trained, to be fine-tuned (``models.vqgan.base``) and used like our own.

diffusers' ``VQModel``; transformers' ``ChameleonVQVAE``, ``JanusVQVAE`` and ``Emu3VQVAE``, by themselves or inside the
model that they belong to, of which nothing else is read; LlamaGen's by file. All are an encoder, a codebook
``quantize.embedding`` and a decoder; what is particular to one is a class in ``_FAMILIES``, and another one is added
there. Grey images are shown to every channel, and the mean of the channels is what they see.

The codebook stays as it is: what a code stands for was learnt of far more images. Encoder and decoder learn.

Shapes: B images, H x W pixels, C channels of the network, h x w latent cells (H / downsampling), D width and K number
of the codes, T = h w tokens. Pixels are float32 in [-1, 1], one channel. Codes are int64 in [0, K).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import VQModel
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)
from transformers.models.janus.modeling_janus import JanusVQVAEDecoder
from transformers.utils import cached_file

from medsynth_core.errors import InputError
from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.llamagen import read_config, to_janus
from medsynth_core.models.pretrained import check_pretrained
from medsynth_core.models.tokenizers.vqgan import Quantised, Rendering, nearest

log = logging.getLogger(__name__)

SETTING = "models.vqgan.base"
_WHOLE = "vqmodel."
"""What a tokenizer's tensors are below in the file of a whole model of transformers."""
_WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")


class _Family:
    """Networks of one class. ``network`` makes one of its config, with random weights."""

    stages = "channel_multiplier"
    """The entry of the config that has a number for each resolution."""
    lacks = ""
    """Of the names of the tensors that no pretrained model has: their parts begin as ``network`` makes them."""

    def network(self, config: dict[str, Any]) -> Any:
        raise NotImplementedError

    def latents(self, net: Any, pixels_BCHW: Tensor) -> Tensor:
        """Returns what is looked up in the codebook, [B, D, h, w]."""
        latents: Tensor = net.quant_conv(net.encoder(pixels_BCHW))
        return latents

    def pixels(self, net: Any, latents_BDhw: Tensor) -> Tensor:
        """Returns what latents from the codebook look like, [B, C, H, W]."""
        pixels: Tensor = net.decoder(net.post_quant_conv(latents_BDhw))
        return pixels

    def codebook(self, net: Any) -> Tensor:
        """Returns the code vectors, [K, D]."""
        weight: Tensor = net.quantize.embedding.weight
        return weight


class _Diffusers(_Family):
    """VQModel: taming's network. Spatial norms are MoVQ's (Kandinsky); aMUSEd's, which alone look codes up when they
    decode, take and give [0, 1]."""

    stages = "block_out_channels"

    def network(self, config: dict[str, Any]) -> Any:
        return VQModel.from_config(config)

    def latents(self, net: Any, pixels_BCHW: Tensor) -> Tensor:
        return super().latents(net, (pixels_BCHW + 1.0) / 2.0 if net.config.lookup_from_codebook else pixels_BCHW)

    def pixels(self, net: Any, latents_BDhw: Tensor) -> Tensor:
        seen_by_norms = latents_BDhw if net.config.norm_type == "spatial" else None
        pixels: Tensor = net.decoder(net.post_quant_conv(latents_BDhw), seen_by_norms)
        return pixels * 2.0 - 1.0 if net.config.lookup_from_codebook else pixels


class _Chameleon(_Family):
    """ChameleonVQVAE: an encoder and a codebook. Its decoder isn't published with it; one of the same shape learns from
    the corpus, from scratch."""

    lacks = "decoder."

    def network(self, config: dict[str, Any]) -> Any:
        settings = ChameleonVQVAEConfig.from_dict(config)
        net = ChameleonVQVAE(settings)
        alike = ("latent_channels", "base_channels", "channel_multiplier", "num_res_blocks", "dropout")
        shape = {name: getattr(settings, name) for name in alike}
        net.decoder = JanusVQVAEDecoder(JanusVQVAEConfig(**shape, out_channels=settings.in_channels))
        return net


class _Janus(_Family):
    """JanusVQVAE, which is LlamaGen's: latents and codes are compared as directions. transformers' own ``encode``
    forgets that, and finds other codes wherever those of the codebook aren't of one length."""

    def network(self, config: dict[str, Any]) -> Any:
        return JanusVQVAE(JanusVQVAEConfig.from_dict(config))

    def latents(self, net: Any, pixels_BCHW: Tensor) -> Tensor:
        return F.normalize(super().latents(net, pixels_BCHW).float(), dim=1)

    def codebook(self, net: Any) -> Tensor:
        return F.normalize(super().codebook(net), dim=1)


class _Emu3(_Family):
    """Emu3VQVAE: of films, so an image is one that stands still for as many frames as a code has; the first frame is
    what comes back, as in transformers."""

    def network(self, config: dict[str, Any]) -> Any:
        return Emu3VQVAE(Emu3VQVAEConfig.from_dict(config))

    def latents(self, net: Any, pixels_BCHW: Tensor) -> Tensor:
        film_BFCHW = pixels_BCHW[:, None].expand(-1, net.config.temporal_downsample_factor, -1, -1, -1)
        latents: Tensor = net.quant_conv(net.encoder(film_BFCHW).transpose(1, 2))
        return latents[:, :, 0]

    def pixels(self, net: Any, latents_BDhw: Tensor) -> Tensor:
        codes_BD1hw = latents_BDhw[:, :, None]
        post_quant = net.post_quant_conv(codes_BD1hw)
        frames: Tensor = net.decoder(post_quant.transpose(1, 2), codes_BD1hw.transpose(1, 2))
        return frames.unflatten(0, (len(latents_BDhw), -1))[:, 0]


_FAMILIES: dict[str, _Family] = {
    "VQModel": _Diffusers(),
    "chameleon_vqgan": _Chameleon(),
    "janus_vqgan": _Janus(),
    "emu3_vqgan": _Emu3(),
}
"""By what config.json calls them: the class of diffusers, or the model type of transformers."""


class PretrainedTokenizer(nn.Module):
    """A network of one of the families behind the protocol ``ImageTokenizer``; it has one level."""

    levels = 1

    def __init__(self, family: str, config: dict[str, Any]) -> None:
        super().__init__()
        self.family, self.config = family, config
        self._family = _FAMILIES[family]
        self.net = self._family.network(config)
        self.net.quantize.requires_grad_(False)

    @property
    def codes(self) -> int:
        """Distinct codes, K."""
        return len(self.net.quantize.embedding.weight)

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(getattr(self.net.config, self._family.stages)) - 1))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.net.quantize.embedding.weight.device
        return device

    def forward(self, pixels_B1HW: Tensor) -> Rendering:
        """Returns what pixels [B, 1, H, W] are rendered to."""
        latents = self.encode_to_latents(pixels_B1HW)
        quantised = self.quantise(latents)
        pixels = self.decode_latents(quantised.latents_BDhw).float()
        return Rendering(pixels, pixels, latents, quantised.commitment)

    def encode_to_latents(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns latents before the codebook, [B, D, h, w]."""
        return self._family.latents(self.net, pixels_B1HW.expand(-1, self.net.encoder.conv_in.in_channels, -1, -1))

    def quantise(self, latents_BDhw: Tensor) -> Quantised:
        """Replaces each latent by the nearest code, in float32; gradients go straight through."""
        latents_BDhw = latents_BDhw.float()
        batch, _, height, width = latents_BDhw.shape
        flat_ND = latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
        codes_BLhw = nearest(flat_ND, self._family.codebook(self.net)).view(batch, 1, height, width)
        chosen_BDhw = self._looked_up(codes_BLhw[:, 0])
        straight_BDhw = latents_BDhw + (chosen_BDhw - latents_BDhw).detach()
        return Quantised(straight_BDhw, codes_BLhw, (chosen_BDhw - latents_BDhw).square().mean())

    def decode_latents(self, latents_BDhw: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W] of quantised latents; not clamped, so that losses see the excess."""
        return self._family.pixels(self.net, latents_BDhw).mean(1, keepdim=True)

    @torch.no_grad()
    def encode(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns codes, int64 [B, T]."""
        return self.quantise(self.encode_to_latents(pixels_B1HW)).codes_BLhw.flatten(1)

    @torch.no_grad()
    def decode(self, codes_BT: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W], clamped to [-1, 1]."""
        side = round(codes_BT.shape[1] ** 0.5)
        return self.decode_latents(self._looked_up(codes_BT.view(-1, side, side))).clamp(-1.0, 1.0)

    def _looked_up(self, codes_Bhw: Tensor) -> Tensor:
        return self._family.codebook(self.net)[codes_Bhw].permute(0, 3, 1, 2)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last convolution, for the adaptive adversarial weight."""
        weight: nn.Parameter = self.net.decoder.conv_out.weight
        return weight

    def save(self, folder: Path) -> None:
        """Writes weights and config into ``folder``; whoever loads it needs neither the base nor a hub."""
        about = {"kind": "pretrained", "family": self.family, "config": self.config}
        save_weights(folder, self.state_dict(), about)


def load(folder: Path) -> PretrainedTokenizer:
    """Returns the saved tokenizer in evaluation mode.

    Raises:
        InputError: the folder holds none, or its weights don't fit its config.
    """
    state, about = load_weights(folder, "pretrained")
    model = _made(str(folder), about.get("family"), about.get("config", {}))
    restore(model, state, folder)
    return model.eval()


@dataclass(frozen=True)
class Base:
    """A pretrained image tokenizer that was found; its weights aren't read yet.

    Attributes:
        name: as ``models.vqgan.base`` has it.
        family: a key of ``_FAMILIES``.
        config: of its network.
        read: returns its tensors by name.
    """

    name: str
    family: str
    config: dict[str, Any]
    read: Callable[[], dict[str, Tensor]]

    @property
    def downsampling(self) -> int:
        """Image side over latent side.

        Raises:
            InputError: no network can be made of the config.
        """
        with torch.device("meta"):
            return _made(_where(self.name), self.family, self.config).downsampling

    def load(self) -> PretrainedTokenizer:
        """Returns the tokenizer with the pretrained weights, float32.

        Raises:
            InputError: there are no weights in safetensors, or they don't fit.
        """
        where = _where(self.name)
        model = _made(where, self.family, self.config)
        try:
            state = self.read()
        except SafetensorError as error:
            raise InputError(f"{where}: damaged weights ({error})") from error
        if lacks := _FAMILIES[self.family].lacks:
            log.warning(
                "%s has no decoder: one is trained from scratch, which takes more models.vqgan.train.steps", where
            )
            state |= {name: each for name, each in model.net.state_dict().items() if name.startswith(lacks)}
        try:
            model.net.load_state_dict(state, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where}: weights don't fit its config.json ({reason}); where they are of an old version, load and "
                f"save it by from_pretrained and save_pretrained of {type(model.net).__name__}"
            ) from error
        return model


def find_base(name: str) -> Base:
    """Returns the pretrained image tokenizer that ``models.vqgan.base`` names: a folder, ``owner/model`` or
    ``owner/model/subfolder`` of the hub or its cache, or LlamaGen's safetensors file. Only its config is read.

    Raises:
        InputError: there is none, or of no family that is known.
    """
    path, where = Path(name).expanduser(), _where(name)
    if path.is_file():
        return Base(name, "janus_vqgan", read_config(path, where), lambda: to_janus(_tensors([path], "")))
    if path.is_dir() or path.is_absolute() or name.startswith("."):
        check_pretrained(SETTING, str(path))
        place, subfolder = str(path), ""
    else:
        owner, _, rest = name.partition("/")
        model, _, subfolder = rest.partition("/")
        place = f"{owner}/{model}" if model else owner
    try:
        about = json.loads(_file(where, place, subfolder, "config.json").read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: its config.json can't be read ({error})") from error
    about.pop("_name_or_path", None)  # where it lay when it was saved
    kind, part = about.get("_class_name") or about.get("model_type"), ""
    if f"{kind}_vqgan" in _FAMILIES:
        about, kind, part = about.get("vq_config", {}), f"{kind}_vqgan", _WHOLE
    if kind not in _FAMILIES:
        raise InputError(
            f"{where}: expected an image tokenizer of diffusers or transformers ({', '.join(_FAMILIES)}), "
            f"found {kind!r}"
        )
    return Base(name, kind, about, lambda: _tensors(_weight_files(where, place, subfolder, part), part))


def _where(name: str) -> str:
    return f"{SETTING} {name!r}"


def _made(where: str, family: Any, config: dict[str, Any]) -> PretrainedTokenizer:
    """Returns a tokenizer with random weights.

    Raises:
        InputError: the family isn't known, or no network of it can be made of the config.
    """
    if family not in _FAMILIES:
        raise InputError(f"{where}: no network of family {family!r}; there are {', '.join(_FAMILIES)}")
    try:
        return PretrainedTokenizer(family, config)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: no {family} can be made of its config.json ({reason})") from error


def _file(where: str, place: str, subfolder: str, file: str) -> Path:
    """Returns a file of a folder, or of the hub or its cache.

    Raises:
        InputError: it isn't there.
    """
    try:
        return Path(str(cached_file(place, file, subfolder=subfolder)))
    except (OSError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{where} can't be loaded ({reason}); name a folder, or a model of the hub") from error


def _weight_files(where: str, place: str, subfolder: str, part: str) -> list[Path]:
    """Returns the files with tensors of ``part``; of many, the others aren't asked for.

    Raises:
        InputError: there are none in safetensors.
    """
    for name in _WEIGHTS:
        with suppress(InputError):
            return [_file(where, place, subfolder, name)]
        with suppress(InputError):
            index = _file(where, place, subfolder, f"{name}.index.json")
            break
    else:
        raise InputError(
            f"{where}: no weights in safetensors; pickled ones (pytorch_model.bin) aren't opened: convert them, where "
            f"you trust them, by from_pretrained and save_pretrained"
        )
    places = json.loads(index.read_text("utf-8"))["weight_map"]
    return [_file(where, place, subfolder, file) for file in sorted({places[name] for name in places if part in name})]


def _tensors(files: list[Path], part: str) -> dict[str, Tensor]:
    """Returns the tensors below ``part``, float32, by what they are called there."""
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118
                if part in name:
                    found[name.rpartition(part)[2] if part else name] = stream.get_tensor(name).float()
    return found
