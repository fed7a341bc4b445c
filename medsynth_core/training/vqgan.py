"""Training of the VQ-GAN: reconstruction, clinical, perceptual, codebook and patch-adversarial terms."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError
from medsynth_core.fidelity.settings import MIN_IMAGES, FidelityFloors
from medsynth_core.fidelity.spaces import least_share, real_ranges
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.discriminator import PatchDiscriminator
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.settings import VQGANConfig
from medsynth_core.models.tokenizers.vqgan import VQGAN
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of, stream
from medsynth_core.training.features import FeatureDistance, ImageEncoder
from medsynth_core.training.finish import TrainingReport, checkpoint_path, finish
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.settings import VQGANParams

log = logging.getLogger(__name__)

_REVIVE_EVERY = 25
_JUDGED = 256
"""Held-out images that judge a checkpoint."""
_COMPARED = 1000
"""Training and held-out images at most whose range renderings are held against."""


def run(params: VQGANParams, paths: Paths, progress: Progress, *, key: str) -> TrainingReport:
    """Trains the VQ-GAN on the corpus' training images and writes it.

    Raises:
        InputError: the corpus has no training images, or a model that guides the training is missing.
        StateError: training diverged.
    """
    settings = params.vqgan
    corpus = Corpus.open(paths["corpus"])
    rows = np.asarray(corpus.views("train").column("row"), dtype=np.int64)
    if len(rows) == 0:
        raise InputError(
            f"{paths['corpus']}: no training images; set corpus.images to the image folder, "
            f"or models.path to trained models"
        )
    held_out = np.asarray(corpus.views("val").column("row"), dtype=np.int64)
    accelerator = make_accelerator(params)
    torch.manual_seed(seed_of(params.seed, "vqgan"))
    model = VQGAN(settings).to(accelerator.device)
    discriminator = PatchDiscriminator().to(accelerator.device)
    terms = _Terms(model, discriminator, settings, corpus, rows, _guides(settings, paths))
    terms.guides.to(accelerator.device)
    objectives = [Objective("vqgan", model, terms.generator, betas=(0.9, 0.95))]
    if settings.adversarial_weight > 0:
        critic = Objective("discriminator", discriminator, terms.critic, settings.adversarial_start, (0.5, 0.9))
        objectives.append(critic)
    trained = train(
        objectives,
        len(rows),
        settings.train,
        accelerator=accelerator,
        key=key,
        seed=params.seed,
        checkpoint=checkpoint_path(paths, "vqgan"),
        progress=progress,
        validate=(lambda: terms.held_out(held_out[:_JUDGED])) if len(held_out) else None,
        validate_from=settings.adversarial_start if settings.adversarial_weight > 0 else 0,
        before_step=lambda step: terms.revive(params.seed, step),
    )
    metrics = evaluate(model, corpus, held_out if len(held_out) else rows[:_JUDGED])
    known = stream(params.seed, "vqgan.fidelity").permutation(rows)[:_COMPARED]
    metrics |= _fidelity_of_renderings(model, corpus, known, held_out[:_COMPARED])
    return finish("vqgan", model.save, paths, trained, metrics, accelerator)


@torch.inference_mode()
def evaluate(model: VQGAN, corpus: Corpus, rows: np.ndarray, batch_size: int = 64) -> dict[str, float]:
    """Returns PSNR in dB (peak 255), share of codes used and codebook perplexity over the given images."""
    squared, pixels_seen = 0.0, 0
    counts = torch.zeros(model.codes, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        real = to_inputs(corpus.images(rows[start : start + batch_size]), model.device)
        codes = model.encode(real)
        squared += float((model.decode(codes) - real).square().sum())
        pixels_seen += real.numel()
        counts += torch.bincount(codes.flatten().cpu(), minlength=model.codes)
    share = counts / counts.sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    return {
        "psnr_db": 10 * math.log10(4.0 / (squared / pixels_seen)),
        "codes_used": float((counts > 0).double().mean()),
        "perplexity": float(entropy.exp()),
    }


def _fidelity_of_renderings(model: VQGAN, corpus: Corpus, rows: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Returns the share of held-out images that lie within the range of real ones when they are rendered, as
    ``fidelity``; nothing of few images. Warns where a release of this tokenizer would be refused."""
    if min(len(rows), len(held_out)) < MIN_IMAGES:
        return {}
    films = corpus.images(held_out)
    found = least_share(real_ranges(corpus.images(rows), films, model.device), as_rendered(model, films))
    floor = FidelityFloors().tokenizer
    if floor is not None and found < floor:
        log.warning(
            "vqgan: %.0f %% of rendered held-out images lie within the range of real ones, which forbids to publish "
            "below release.min_fidelity.tokenizer=%g; train longer, or with more codes or less downsampling",
            100 * found,
            floor,
        )
    return {"fidelity": found}


def _guides(settings: VQGANConfig, paths: Paths) -> nn.ModuleDict:
    """Returns the feature distances of the clinical and the perceptual term, those whose weight isn't 0."""
    guides = nn.ModuleDict()
    if settings.clinical_weight > 0 and settings.clinical_model is not None:
        guides["clinical"] = FeatureDistance(ImageEncoder(settings.clinical_model))
    elif settings.clinical_weight > 0:
        classifier = FindingClassifier.load(paths["classifier"])
        if classifier.labels:
            guides["clinical"] = FeatureDistance(classifier)
        else:
            log.warning("vqgan: the classifier knows no finding; trained without the clinical term")
    if settings.perceptual_weight > 0 and settings.perceptual_model is not None:
        guides["perceptual"] = FeatureDistance(ImageEncoder(settings.perceptual_model))
    return guides


class _Terms:
    """The losses of generator and discriminator."""

    def __init__(
        self,
        model: VQGAN,
        discriminator: PatchDiscriminator,
        config: VQGANConfig,
        corpus: Corpus,
        rows: np.ndarray,
        guides: nn.ModuleDict,
    ) -> None:
        self.model = model
        self.discriminator = discriminator
        self.config = config
        self.corpus = corpus
        self.rows = rows
        self.guides = guides
        self._fakes: dict[int, Tensor] = {}

    def generator(self, module: nn.Module, batch: Batch) -> Losses:
        config = self.config
        real = self._pixels(self.rows[batch.picks])
        fake, _, codebook_loss = module(real)
        fidelity, losses = self._fidelity(fake, real)
        losses["codebook"] = codebook_loss
        total = fidelity + codebook_loss
        if config.adversarial_weight > 0 and batch.step >= config.adversarial_start:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = -self.discriminator(fake).float().mean()
            self.discriminator.requires_grad_(True)
            weight = _adaptive_weight(fidelity, losses["adversarial"], self.model.last_layer)
            total = total + config.adversarial_weight * weight * losses["adversarial"]
            self._fakes[int(batch.places[0])] = fake.detach()
        return {"total": total, **losses}

    def critic(self, module: nn.Module, batch: Batch) -> Losses:
        real_logits = module(self._pixels(self.rows[batch.picks])).float()
        fake_logits = module(self._fakes.pop(int(batch.places[0]))).float()
        loss = 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
        return {"total": loss, "discriminator": loss}

    def held_out(self, rows: np.ndarray, batch_size: int = 64) -> float:
        """Returns the mean fidelity terms over held-out images."""
        total = 0.0
        for start in range(0, len(rows), batch_size):
            real = self._pixels(rows[start : start + batch_size])
            fidelity, _ = self._fidelity(self.model(real)[0], real)
            total += float(fidelity) * len(real)
        return total / len(rows)

    @torch.no_grad()
    def revive(self, seed: int, step: int) -> None:
        """Moves codes that a sample of training images doesn't use onto latents drawn from that sample."""
        if step % _REVIVE_EVERY or step >= self.config.train.steps * 3 // 4:
            return
        draw = stream(seed, "vqgan.revive", step)
        rows = np.sort(draw.choice(self.rows, size=min(len(self.rows), 128), replace=False))
        latents_BDhw = self.model.encode_to_latents(self._pixels(rows))
        codes = self.model.quantise(latents_BDhw).codes_Bhw.flatten()
        dead = (torch.bincount(codes, minlength=self.config.codes) == 0).nonzero().flatten()
        if len(dead) == 0:
            return
        pool_ND = latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.from_numpy(draw.choice(len(pool_ND), size=len(dead), replace=len(dead) > len(pool_ND)))
        self.model.codebook_KD[dead] = pool_ND[chosen.to(pool_ND.device)]

    def _fidelity(self, fake: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted sum of reconstruction, clinical and perceptual terms, and each by itself."""
        losses = {"reconstruction": (fake - real).abs().mean() + 2.0 * (fake - real).square().mean()}
        total = losses["reconstruction"]
        weights = {"clinical": self.config.clinical_weight, "perceptual": self.config.perceptual_weight}
        for name, distance in self.guides.items():
            losses[name] = distance(fake, real)
            total = total + weights[name] * losses[name]
        return total, losses

    def _pixels(self, rows: np.ndarray) -> Tensor:
        return to_inputs(self.corpus.images(rows), self.model.device)


def _adaptive_weight(fidelity: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Balances the gradients of both terms at the last layer (VQ-GAN eq. 7), capped at 1e4."""
    by_fidelity = torch.autograd.grad(fidelity, last_layer, retain_graph=True)[0]
    by_generator = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)[0]
    return (by_fidelity.norm() / (by_generator.norm() + 1e-4)).clamp(0, 1e4).detach()
