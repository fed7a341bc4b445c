"""The tokenizer that the house trains: a VQ-GAN whose network is diffusers' VQModel.

Shapes: B images, H x W pixels, h x w latent cells (H / downsampling), D code_dim, K codes.
Pixels are float32 in [-1, 1], one channel. Codes are int64 in [0, K).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import VQModel
from torch import Tensor, nn

from medsynth_core.models.artifact import load_weights, restore, save_weights
from medsynth_core.models.settings import VQGANConfig


@dataclass(frozen=True)
class Quantised:
    """Latents after the codebook.

    Attributes:
        latents_BDhw: straight-through quantised latents, float32.
        codes_Bhw: nearest entries, int64.
        codebook_loss: codebook plus commitment term, scalar (VQ-VAE eq. 3).
    """

    latents_BDhw: Tensor
    codes_Bhw: Tensor
    codebook_loss: Tensor


class VQGAN(nn.Module):
    """Convolutional encoder, codebook and decoder for grayscale images."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        levels = len(config.channels)
        self.config = config
        self.net = VQModel(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.code_dim,
            num_vq_embeddings=config.codes,
            vq_embed_dim=config.code_dim,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=False,
        )

    @property
    def codes(self) -> int:
        """Distinct codes, K."""
        return self.config.codes

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

    def forward(self, pixels_B1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns reconstructed pixels [B, 1, H, W], codes [B, h, w] and the codebook loss."""
        quantised = self.quantise(self.encode_to_latents(pixels_B1HW))
        return self.decode_latents(quantised.latents_BDhw).float(), quantised.codes_Bhw, quantised.codebook_loss

    def encode_to_latents(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns latents before the codebook, float32 [B, D, h, w]."""
        latents: Tensor = self.net.encode(pixels_B1HW).latents
        return latents

    def quantise(self, latents_BDhw: Tensor) -> Quantised:
        """Replaces each latent by its nearest code, in float32; gradients go straight through."""
        latents_BDhw = latents_BDhw.float()
        flat_ND = latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
        codebook_KD = self.codebook_KD
        with torch.no_grad(), torch.autocast(flat_ND.device.type, enabled=False):
            distance_NK = (
                flat_ND.square().sum(1, keepdim=True) - 2 * flat_ND @ codebook_KD.T + codebook_KD.square().sum(1)
            )
            codes_N = distance_NK.argmin(1)
        batch, _, height, width = latents_BDhw.shape
        codes_Bhw = codes_N.view(batch, height, width)
        chosen_BDhw = codebook_KD[codes_Bhw].permute(0, 3, 1, 2)
        loss = (chosen_BDhw - latents_BDhw.detach()).square().mean() + self.config.commitment_weight * (
            chosen_BDhw.detach() - latents_BDhw
        ).square().mean()
        straight_BDhw = latents_BDhw + (chosen_BDhw - latents_BDhw).detach()
        return Quantised(straight_BDhw, codes_Bhw, loss)

    def decode_latents(self, latents_BDhw: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W] of quantised latents; not clamped, so that losses see the excess."""
        pixels: Tensor = self.net.decoder(self.net.post_quant_conv(latents_BDhw))
        return pixels

    @torch.no_grad()
    def encode(self, pixels_B1HW: Tensor) -> Tensor:
        """Returns codes, int64 [B, h, w]."""
        return self.quantise(self.encode_to_latents(pixels_B1HW)).codes_Bhw

    @torch.no_grad()
    def decode(self, codes_Bhw: Tensor) -> Tensor:
        """Returns pixels [B, 1, H, W], clamped to [-1, 1]."""
        return self.decode_latents(self.codebook_KD[codes_Bhw].permute(0, 3, 1, 2)).clamp(-1.0, 1.0)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last convolution, for the adaptive adversarial weight."""
        weight: nn.Parameter = self.net.decoder.conv_out.weight
        return weight

    def save(self, folder: Path) -> None:
        """Writes weights and config into ``folder``."""
        save_weights(folder, self.state_dict(), {"kind": "vqgan", "vqgan": self.config.model_dump(mode="json")})

    @classmethod
    def load(cls, folder: Path) -> VQGAN:
        """Returns the saved model in evaluation mode.

        Raises:
            InputError: the folder holds no VQ-GAN, or its weights don't fit its config.
        """
        state, saved = load_weights(folder, "vqgan")
        model = cls(VQGANConfig.model_validate(saved["vqgan"]))
        restore(model, state, folder)
        return model.eval()


load = VQGAN.load
