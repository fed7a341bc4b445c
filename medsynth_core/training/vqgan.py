"""Training of the VQ-GAN: reconstruction, codebook and patch-adversarial losses."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth_core.config import Config, Paths, config_digest
from medsynth_core.config.tree import VQGANConfig
from medsynth_core.corpus.images import to_pixels
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError
from medsynth_core.hashing import sha256_tree
from medsynth_core.models.artifact import pick_device
from medsynth_core.models.vqgan import VQGAN, PatchDiscriminator
from medsynth_core.progress import Progress
from medsynth_core.training.loop import (
    Losses,
    TrainingReport,
    batch_indices,
    finish,
    optimise,
    step_generator,
    train,
)

STAGE_VERSION = 1
_REVIVE_EVERY = 25


def run(config: Config, paths: Paths, progress: Progress) -> TrainingReport:
    """Trains the VQ-GAN on the corpus' training images and writes it to ``paths.vqgan``.

    Raises:
        InputError: the corpus has no training images.
        StateError: training diverged.
    """
    settings = config.models.vqgan
    corpus = Corpus.open(paths.corpus)
    rows = np.asarray(corpus.views("train").column("row"), dtype=np.int64)
    if len(rows) == 0:
        raise InputError(
            f"{paths.corpus}: no training images; set corpus.images to the image folder, "
            f"or models.path to trained models"
        )
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    model = VQGAN(settings).to(device)
    trainer = _Trainer(model, settings, corpus, rows, config.seed, device)
    key = config_digest(STAGE_VERSION, config.seed, settings, sha256_tree(paths.corpus))
    checkpoint = paths.checkpoints / "vqgan.safetensors"
    trained = train(
        trainer.step,
        settings.train,
        key=key,
        seed=config.seed,
        modules={"vqgan": model, "discriminator": trainer.discriminator},
        optimisers={"vqgan": trainer.optimiser, "discriminator": trainer.critic_optimiser},
        checkpoint=checkpoint,
        progress=progress,
    )
    held_out = np.asarray(corpus.views("val").column("row"), dtype=np.int64)
    metrics = evaluate(model, corpus, held_out if len(held_out) else rows[:256])
    return finish("vqgan", model.save, paths.vqgan, checkpoint, settings.train.steps, trained, metrics)


@torch.inference_mode()
def evaluate(model: VQGAN, corpus: Corpus, rows: np.ndarray, batch_size: int = 64) -> dict[str, float]:
    """Returns PSNR in dB (peak 255), share of codes used and codebook perplexity over the given images."""
    device = model.codebook_KD.device
    squared, pixels_seen = 0.0, 0
    counts = torch.zeros(model.config.codes, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        real = torch.from_numpy(to_pixels(corpus.images(rows[start : start + batch_size])))[:, None].to(device)
        codes = model.encode_to_codes(real)
        squared += float((model.decode_codes(codes) - real).square().sum())
        pixels_seen += real.numel()
        counts += torch.bincount(codes.flatten().cpu(), minlength=model.config.codes)
    share = counts / counts.sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    return {
        "psnr_db": 10 * math.log10(4.0 / (squared / pixels_seen)),
        "codes_used": float((counts > 0).double().mean()),
        "perplexity": float(entropy.exp()),
    }


class _Trainer:
    """One optimiser step of generator and discriminator."""

    def __init__(
        self,
        model: VQGAN,
        config: VQGANConfig,
        corpus: Corpus,
        rows: np.ndarray,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self.config = config
        self.corpus = corpus
        self.rows = rows
        self.seed = seed
        self.device = device
        self.discriminator = PatchDiscriminator().to(device)
        rate = config.train.learning_rate
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=config.train.weight_decay
        )
        self.critic_optimiser = torch.optim.AdamW(
            self.discriminator.parameters(), lr=rate, betas=(0.5, 0.9), weight_decay=config.train.weight_decay
        )

    def step(self, step: int) -> Losses:
        config = self.config
        picks = batch_indices(len(self.rows), config.train.batch_size, self.seed, step)
        real = torch.from_numpy(to_pixels(self.corpus.images(self.rows[picks])))[:, None].to(self.device)
        latents = self.model.encode(real)
        if step % _REVIVE_EVERY == 0 and step < config.train.steps * 3 // 4:
            self._revive(latents.detach(), step)
        quantised = self.model.quantise(latents)
        fake = self.model.decode(quantised.latents_BDhw)
        reconstruction = (fake - real).abs().mean() + 2.0 * (fake - real).square().mean()
        losses: dict[str, Tensor] = {"reconstruction": reconstruction, "codebook": quantised.codebook_loss}
        total = reconstruction + quantised.codebook_loss
        adversarial = config.adversarial_weight > 0 and step >= config.adversarial_start
        if adversarial:
            self.discriminator.requires_grad_(False)
            generator_loss = -self.discriminator(fake).mean()
            self.discriminator.requires_grad_(True)
            weight = _adaptive_weight(reconstruction, generator_loss, self.model.last_layer)
            total = total + config.adversarial_weight * weight * generator_loss
            losses["adversarial"] = generator_loss.detach()
        optimise(total, self.optimiser, self.model, config.train, step)
        if adversarial:
            real_logits = self.discriminator(real)
            fake_logits = self.discriminator(fake.detach())
            critic = 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
            optimise(critic, self.critic_optimiser, self.discriminator, config.train, step)
            losses["discriminator"] = critic.detach()
        return losses

    @torch.no_grad()
    def _revive(self, latents_BDhw: Tensor, step: int) -> None:
        """Moves codes that a sample of training images doesn't use onto latents drawn from that sample."""
        draw = step_generator(self.seed, step)
        rows = np.sort(draw.choice(self.rows, size=min(len(self.rows), 128), replace=False))
        pixels = torch.from_numpy(to_pixels(self.corpus.images(rows)))[:, None].to(self.device)
        latents_BDhw = torch.cat([latents_BDhw, self.model.encode(pixels)])
        codes = self.model.quantise(latents_BDhw).codes_Bhw.flatten()
        used = torch.bincount(codes, minlength=self.config.codes) > 0
        dead = (~used).nonzero().flatten()
        if len(dead) == 0:
            return
        pool_ND = latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.from_numpy(draw.choice(len(pool_ND), size=len(dead), replace=len(dead) > len(pool_ND)))
        self.model.codebook_KD[dead] = pool_ND[chosen.to(self.device)]


def _adaptive_weight(reconstruction: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Balances the gradients of both terms at the last layer (VQ-GAN eq. 7), capped at 1e4."""
    by_reconstruction = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    by_generator = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)[0]
    return (by_reconstruction.norm() / (by_generator.norm() + 1e-4)).clamp(0, 1e4).detach()
