"""The tokenizer that the house trains: a VQ-GAN whose network is diffusers' VQModel.

With several levels, each codebook but the first codes what those before it leave over (residual quantisation: D. Lee et
al., *Autoregressive image generation using residual quantization*, CVPR 2022, eq. 2), so that a cell says more without
more cells. Codes are ordered level by level: the first ones settle the anatomy, the later ones refine it.

With a linear part, latents begin as the coordinates of each cell in a basis of principal components, which both ways
of the network only correct: trained from scratch for as long as a CPU can, it keeps less of a film than the basis does.
The patterns of the basis reach half a cell over their cell's edges and fade out there, a lapped transform: with sharp
edges, each code that doesn't fit its neighbours would be seen as a square.

Grain is what codes can't carry: noise of a detector, texture finer than a cell. A small network adds it to the decoded
pixels, from noise that the codes themselves are the seed of.

Shapes: B images, H x W pixels, h x w latent cells (H / downsampling), L levels, D code_dim, K codes of all levels,
T = L h w tokens. Pixels are float32 in [-1, 1], one channel. Codes are int64 in [0, K); level l has those from l K / L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pixel_shuffle, pixel_unshuffle

from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.settings import VQGANConfig
from medsynth_core.random import stream

_FOLLOWED = 0.02
"""Share of its way to their mean that a code moves in a step, if it stands for as many latents as the average one."""
_BEFORE = {"patch": 1, "levels": 1, "linear": False, "grain_channels": 0}
"""Of models that were saved before there was another choice."""


@dataclass(frozen=True)
class Quantised:
    """Latents after the codebooks.

    Attributes:
        latents_BDhw: straight-through quantised latents, float32.
        codes_BLhw: nearest entries of each level, int64.
        commitment: squared distance of latents to what stands for them, summed over levels, scalar (the last term of
            VQ-VAE eq. 3; the codebooks follow by themselves, see ``follow``).
    """

    latents_BDhw: Tensor
    codes_BLhw: Tensor
    commitment: Tensor


@dataclass(frozen=True)
class Rendering:
    """What the codes of images render to.

    Attributes:
        pixels_B1HW: as seen, with grain.
        plain_B1HW: without grain; the same tensor where there is none.
        latents_BDhw: before the codebooks.
        commitment: scalar.
    """

    pixels_B1HW: Tensor
    plain_B1HW: Tensor
    latents_BDhw: Tensor
    commitment: Tensor


class Grain(nn.Module):
    """Adds texture to pixels: filtered noise, as strong as what they show asks for.

    It is linear in the noise, so that it changes no grey on average: what is shown stays the codes' to say.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strength = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.texture = nn.Conv2d(1, channels, 7, padding=3, padding_mode="reflect", bias=False)

    def forward(self, plain_B1HW: Tensor, noise_B1HW: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W]; noise is standard normal."""
        textures = self.texture(noise_B1HW.to(plain_B1HW.dtype))
        grained: Tensor = plain_B1HW + (self.strength(plain_B1HW) * textures).mean(1, keepdim=True)
        return grained


class VQGAN(nn.Module):
    """Convolutional encoder, codebook and decoder for grayscale images.

    Attributes:
        lapped_basis_D1ff: of the linear part: orthonormal patterns of a cell's f x f pixels after ``lapped``; zero
            until they are fitted.
    """

    lapped_basis_D1ff: Tensor

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        levels = len(config.channels)
        self.config = config
        self.net = VQModel(
            in_channels=config.patch**2,
            out_channels=config.patch**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.code_dim,
            num_vq_embeddings=config.codes * config.levels,
            vq_embed_dim=config.code_dim,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=False,
        )
        self.net.quantize.requires_grad_(False)
        self.grain = Grain(config.grain_channels) if config.grain_channels else None
        if config.linear:
            side = config.downsampling
            self.register_buffer("lapped_basis_D1ff", torch.zeros(config.code_dim, 1, side, side))
            for correction in (self.net.quant_conv, self.net.decoder.conv_out):
                nn.init.zeros_(correction.weight)
                nn.init.zeros_(correction.bias)

    @property
    def codes(self) -> int:
        """Distinct codes of all levels, K."""
        return self.config.codes * self.config.levels

    @property
    def levels(self) -> int:
        """Codes of a latent cell, L."""
        return self.config.levels

    @property
    def downsampling(self) -> int:
        """Image side over latent side."""
        return self.config.downsampling

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.codebook_KD.device

    @property
    def codebook_KD(self) -> nn.Parameter:  # noqa: N802
        """The code vectors, float32 [K, D]."""
        weight: nn.Parameter = self.net.quantize.embedding.weight
        return weight

    def forward(self, pixels_B1HW: Tensor) -> Rendering:
        """Returns what pixels [B, 1, H, W] are rendered to, with grain from the global random stream."""
        latents = self.encode_to_latents(pixels_B1HW)
        quantised = self.quantise(latents)
        plain = self.decode_latents(quantised.latents_BDhw).float()
        seen = plain if self.grain is None else self.grain(plain, torch.randn_like(plain)).float()
        return Rendering(seen, plain, latents, quantised.commitment)

    def encode_to_latents(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns latents before the codebooks, float32 [B, D, h, w]."""
        latents: Tensor = self.net.encode(pixel_unshuffle(pixels_B1HW, self.config.patch)).latents
        side = self.downsampling
        if self.config.linear:
            latents = latents + conv2d(lapped(pixels_B1HW, side), self.lapped_basis_D1ff, stride=side)
        return latents

    def quantise(self, latents_BDhw: Tensor) -> Quantised:
        """Replaces each latent by the sum of the nearest code of each level, in float32; gradients go straight
        through."""
        batch, _, height, width = latents_BDhw.shape
        flat_ND = latents_BDhw.float().permute(0, 2, 3, 1).flatten(0, 2)
        left_ND, commitment = flat_ND, flat_ND.new_zeros(())
        levels = []
        for level, codebook_kD in enumerate(self.codebook_KD.chunk(self.levels)):
            codes_N = nearest(left_ND, codebook_kD)
            chosen_ND = codebook_kD[codes_N]
            commitment = commitment + (chosen_ND - left_ND).square().mean()
            left_ND = left_ND - chosen_ND
            levels.append(codes_N.view(batch, height, width) + level * self.config.codes)
        codes_BLhw = torch.stack(levels, 1)
        straight_BDhw = latents_BDhw.float() + (self._summed(codes_BLhw) - latents_BDhw.float()).detach()
        return Quantised(straight_BDhw, codes_BLhw, commitment)

    @torch.no_grad()
    def follow(self, latents_BDhw: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Moves codes towards the mean of what they stand for, as k-means does online (VQ-VAE, appendix A.1, without
        its running means). By gradients they would fall behind an encoder that learns quickly.

        Args:
            latents_BDhw: a batch before the codebooks.
            total: sums a tensor over all processes.
        """
        left_ND = latents_BDhw.float().permute(0, 2, 3, 1).flatten(0, 2)
        n = float(total(left_ND.new_tensor([len(left_ND)])))
        for codebook_kD in self.codebook_KD.chunk(self.levels):
            codes_N = nearest(left_ND, codebook_kD)
            left_ND = left_ND - codebook_kD[codes_N]
            off_kD = total(torch.zeros_like(codebook_kD).index_add_(0, codes_N, left_ND))
            uses_k = total(torch.bincount(codes_N, minlength=len(codebook_kD)).float())
            each = min(0.5, _FOLLOWED * len(codebook_kD) / n)
            codebook_kD += (1 - (1 - each) ** uses_k)[:, None] * off_kD / uses_k.clamp(min=1)[:, None]

    def decode_latents(self, latents_BDhw: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W] of quantised latents, without grain; not clamped, so that losses see the
        excess."""
        pixels = pixel_shuffle(self.net.decoder(self.net.post_quant_conv(latents_BDhw)), self.config.patch)
        if self.config.linear:
            side = self.downsampling
            cells = conv_transpose2d(latents_BDhw, self.lapped_basis_D1ff, stride=side)
            pixels = pixels + lapped(cells, side, back=True)
        return pixels

    @torch.no_grad()
    def encode(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns codes, int64 [B, T]."""
        return self.quantise(self.encode_to_latents(pixels_B1HW)).codes_BLhw.flatten(1)

    @torch.no_grad()
    def decode(self, codes_BT: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W], clamped to [-1, 1]. A code of another level than its place's counts as the one
        of the same number in that level."""
        side = round((codes_BT.shape[1] / self.levels) ** 0.5)
        plain = self.decode_latents(self._summed(codes_BT.view(-1, self.levels, side, side)))
        if self.grain is not None:
            plain = self.grain(plain, _noise_of(codes_BT, plain))
        return plain.clamp(-1.0, 1.0)

    def _summed(self, codes_BLhw: Tensor) -> Tensor:
        """Returns the latents [B, D, h, w] that codes stand for."""
        first_L = torch.arange(self.levels, device=codes_BLhw.device)[:, None, None] * self.config.codes
        vectors_BLhwD = self.codebook_KD[codes_BLhw % self.config.codes + first_L]
        return vectors_BLhwD.sum(1).permute(0, 3, 1, 2)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last convolution, for the adaptive adversarial weight."""
        weight: nn.Parameter = self.net.decoder.conv_out.weight
        return weight

    def save(self, folder: Path) -> None:
        """Writes weights and config into ``folder``."""
        settings = self.config.model_dump(mode="json", exclude={"base"})  # it has none
        save_weights(folder, self.state_dict(), {"kind": "vqgan", "vqgan": settings})

    @classmethod
    def load(cls, folder: Path) -> VQGAN:
        """Returns the saved model in evaluation mode.

        Raises:
            InputError: the folder holds no VQ-GAN, or its weights don't fit its config.
        """
        state, saved = load_weights(folder, "vqgan")
        model = cls(VQGANConfig.model_validate(_BEFORE | saved["vqgan"]))
        restore(model, state, folder)
        return model.eval()


def lapped(pixels_B1HW: Tensor, side: int, *, back: bool = False) -> Tensor:
    """Turns pixels so that a cell's ``side`` x ``side`` of them are the coordinates of patterns that reach half a cell
    over its edges, or ``back``.

    Orthogonal: the pre- and post-filter of T. Tran, J. Liang, C. Tu, *Lapped transform via time-domain pre- and
    post-processing*, IEEE Trans. Signal Processing 2003, with the angles of H. Malvar's lapped orthogonal transform.
    The image's own borders stay as they are.
    """
    turn_HH, turn_WW = (_turn(length, side, pixels_B1HW.device) for length in pixels_B1HW.shape[-2:])
    if back:
        turn_HH, turn_WW = turn_HH.T, turn_WW.T
    return turn_HH @ pixels_B1HW @ turn_WW.T


@cache
def _turn(length: int, side: int, device: torch.device) -> Tensor:
    half = side // 2
    flip = np.eye(half)[::-1]
    fold = np.block([[np.eye(half), flip], [flip, -np.eye(half)]])
    angles = flip @ dct(np.eye(half), type=2, norm="ortho", axis=0).T
    angles = angles @ dct(np.eye(half), type=4, norm="ortho", axis=0) @ flip
    across = np.eye(side)
    across[half:, half:] = angles
    turn = np.eye(length)
    for edge in range(side, length, side):
        turn[edge - half : edge + half, edge - half : edge + half] = fold @ across @ fold / 2
    with torch.inference_mode(False):  # whoever asks first, a training may ask next
        return torch.from_numpy(turn).float().to(device)


def nearest(latents_ND: Tensor, codebook_kD: Tensor) -> Tensor:
    """Returns the number of the nearest codebook entry to each latent, int64 [N]."""
    with torch.no_grad(), torch.autocast(latents_ND.device.type, enabled=False):
        squares_k = codebook_kD.square().sum(1)
        distance_Nk = latents_ND.square().sum(1, keepdim=True) - 2 * latents_ND @ codebook_kD.T + squares_k
        return distance_Nk.argmin(1)


def _noise_of(codes_BT: Tensor, like_B1HW: Tensor) -> Tensor:
    """Returns standard normal noise [B, 1, H, W] of which each image's follows from its codes alone, on any device."""
    shape = like_B1HW.shape[1:]
    noise = [
        stream(0, "vqgan.grain", codes.tobytes().hex()).standard_normal(shape, dtype=np.float32)
        for codes in codes_BT.to("cpu", torch.int64).numpy()
    ]
    return torch.from_numpy(np.stack(noise)).to(like_B1HW.device)


load = VQGAN.load
