"""Training of the VQ-GAN, or of a pretrained image tokenizer in its place: reconstruction, clinical, perceptual,
commitment, spectral and patch-adversarial terms.

What codes carry is held to the image itself by the first three, before grain is added; what is seen in the end, by
the last two.
"""

from __future__ import annotations

import logging
import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError
from medsynth_core.fidelity.settings import MIN_IMAGES, FidelityFloors
from medsynth_core.fidelity.spaces import least_share, real_ranges
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.discriminator import PatchDiscriminator
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.rendering import Images, as_rendered
from medsynth_core.models.settings import VQGANConfig
from medsynth_core.models.tokenizers.pretrained import PretrainedTokenizer, find_base
from medsynth_core.models.tokenizers.vqgan import VQGAN, Rendering, lapped, nearest
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of, stream
from medsynth_core.training.features import FeatureDistance, ImageEncoder
from medsynth_core.training.finish import TrainingReport, checkpoint_path, draw_rows, finish, picture_path
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.settings import VQGANParams

log = logging.getLogger(__name__)

Trainee = VQGAN | PretrainedTokenizer
"""What is trained: our own from scratch, or another one that goes on."""
_REVIVE_EVERY = 25
_WINDOW = 16
"""Side of the spectral term's windows, in pixels."""
_LOWEST_POWER = 1e-5
"""Below it, a grey level's rounding, power isn't told apart."""
_SHOWN = 8
"""Held-out images whose renderings are drawn at each checkpoint."""
_JUDGED = 256
"""Held-out images that judge a checkpoint."""
_FITTED_IMAGES, _FITTED_CELLS = 2000, 50_000
"""Training images, and cells of them, at most that the linear part is fitted to."""
_COMPARED = 1000
"""Training and held-out images at most whose range renderings are held against."""


def run(params: VQGANParams, paths: Paths, progress: Progress, *, key: str) -> TrainingReport:
    """Trains the VQ-GAN, or a pretrained base, on the corpus' training images and writes it.

    Raises:
        InputError: the corpus has no training images, or the base or a model that guides the training is missing.
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
    model = _beginning(settings, corpus, rows, params.seed).to(accelerator.device)
    discriminator = PatchDiscriminator().to(accelerator.device)
    terms = _Terms(model, discriminator, settings, corpus, rows, _guides(settings, paths), accelerator)
    terms.guides.to(accelerator.device)
    objectives = [Objective("vqgan", model, terms.generator, betas=(0.9, 0.95))]
    if settings.adversarial_weight > 0:
        critic = Objective("discriminator", discriminator, terms.critic, settings.adversarial_start, (0.5, 0.9))
        objectives.append(critic)
    shown = (held_out if len(held_out) else rows)[:_SHOWN]
    picture = picture_path(checkpoint_path(paths, "vqgan"))
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
        at_checkpoint=lambda curve: draw_renderings(model, corpus.images(shown), picture),
    )
    metrics = evaluate(model, corpus, held_out if len(held_out) else rows[:_JUDGED])
    known = stream(params.seed, "vqgan.fidelity").permutation(rows)[:_COMPARED]
    metrics |= _fidelity_of_renderings(model, corpus, known, held_out[:_COMPARED])

    def save(folder: Path) -> None:
        model.save(folder)
        draw_renderings(model, corpus.images(shown), folder / "renderings.png")

    return finish("vqgan", save, paths, trained, metrics, accelerator)


def _beginning(settings: VQGANConfig, corpus: Corpus, rows: np.ndarray, seed: int) -> Trainee:
    """Returns what the training begins with, on the CPU."""
    if settings.base is not None:
        return find_base(settings.base).load()
    model = VQGAN(settings)
    if settings.linear:
        fitted = np.sort(stream(seed, "vqgan.fitted").permutation(rows)[:_FITTED_IMAGES])
        fit_linear(model, corpus.images(fitted), seed)
    return model


@torch.no_grad()
def fit_linear(model: VQGAN, images_u8: Images, seed: int) -> None:
    """Makes an untrained VQ-GAN the best linear code of images uint8 [N, H, W] that seconds can find: its basis are the
    principal components of their cells, its codebooks centres of k-means, level after level."""
    draw = stream(seed, "vqgan.linear")
    pixels_N1HW = to_inputs(images_u8, model.device)
    side = model.downsampling
    patches_NP = F.unfold(lapped(pixels_N1HW, side), side, stride=side).transpose(1, 2).flatten(0, 1)
    patches_NP = patches_NP[draw.permutation(len(patches_NP))[:_FITTED_CELLS]]
    components = min(model.config.code_dim, len(patches_NP))
    found = TruncatedSVD(components, random_state=int(draw.integers(2**31))).fit(patches_NP.numpy())
    model.lapped_basis_D1ff[:components] = torch.from_numpy(found.components_).view(components, 1, side, side)
    left_ND = patches_NP @ model.lapped_basis_D1ff.flatten(1).T
    for codebook_kD in model.codebook_KD.chunk(model.levels):
        means = MiniBatchKMeans(min(len(codebook_kD), len(left_ND)), n_init=1, random_state=int(draw.integers(2**31)))
        centres = torch.from_numpy(means.fit(left_ND.numpy()).cluster_centers_)
        codebook_kD[: len(centres)] = centres
        left_ND = left_ND - codebook_kD[nearest(left_ND, codebook_kD)]


@torch.no_grad()
def draw_renderings(model: Trainee, images_u8: Images, path: Path) -> None:
    """Writes a PNG: images uint8 [N, H, W] in a row, below each what it is rendered to."""
    was_training = model.training
    rows = np.stack([images_u8, as_rendered(model.eval(), images_u8)])
    model.train(was_training)
    draw_rows(rows, path)


@torch.inference_mode()
def evaluate(model: Trainee, corpus: Corpus, rows: np.ndarray, batch_size: int = 64) -> dict[str, float]:
    """Returns PSNR in dB (peak 255) of what the codes carry, before grain, share of codes used and codebook perplexity,
    a level on average, over the given images."""
    squared, pixels_seen = 0.0, 0
    counts = torch.zeros(model.codes, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        real = to_inputs(corpus.images(rows[start : start + batch_size]), model.device)
        quantised = model.quantise(model.encode_to_latents(real))
        plain = model.decode_latents(quantised.latents_BDhw).clamp(-1.0, 1.0)
        squared += float((plain - real).square().sum())
        pixels_seen += real.numel()
        counts += torch.bincount(quantised.codes_BLhw.flatten().cpu(), minlength=model.codes)
    share = counts / counts.sum() * model.levels
    entropy = -(share[share > 0] * share[share > 0].log()).sum() / model.levels
    return {
        "psnr_db": 10 * math.log10(4.0 / (squared / pixels_seen)),
        "codes_used": float((counts > 0).double().mean()),
        "perplexity": float(entropy.exp()),
    }


def _fidelity_of_renderings(model: Trainee, corpus: Corpus, rows: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
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
        model: Trainee,
        discriminator: PatchDiscriminator,
        config: VQGANConfig,
        corpus: Corpus,
        rows: np.ndarray,
        guides: nn.ModuleDict,
        accelerator: Accelerator,
    ) -> None:
        self.model = model
        self.discriminator = discriminator
        self.config = config
        self.corpus = corpus
        self.rows = rows
        self.guides = guides
        self._total = partial(accelerator.reduce, reduction="sum")
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def generator(self, module: nn.Module, batch: Batch) -> Losses:
        config = self.config
        real = jittered(self._pixels(self.rows[batch.picks]), batch.draws(DRAWS), config.jitter)
        made: Rendering = module(real)
        fidelity, losses = self._fidelity(made.plain_B1HW, real)
        losses["commitment"] = made.commitment
        total = fidelity + config.commitment_weight * made.commitment
        if isinstance(self.model, VQGAN):
            self.model.follow(made.latents_BDhw, self._total)
        if config.spectral_weight > 0:
            losses["spectral"] = spectral_distance(made.pixels_B1HW, real)
            total = total + config.spectral_weight * losses["spectral"]
        if config.adversarial_weight > 0 and batch.step >= config.adversarial_start:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = -self.discriminator(made.pixels_B1HW).float().mean()
            self.discriminator.requires_grad_(True)
            weight = _adaptive_weight(fidelity, losses["adversarial"], self.model.last_layer)
            total = total + config.adversarial_weight * weight * losses["adversarial"]
            self._pairs[int(batch.places[0])] = real, made.pixels_B1HW.detach()
        return {"total": total, **losses}

    def critic(self, module: nn.Module, batch: Batch) -> Losses:
        real, fake = self._pairs.pop(int(batch.places[0]))
        real_logits, fake_logits = module(real).float(), module(fake).float()
        loss = 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
        return {"total": loss, "discriminator": loss}

    def held_out(self, rows: np.ndarray, batch_size: int = 64) -> float:
        """Returns the mean fidelity and spectral terms over held-out images."""
        total = 0.0
        for start in range(0, len(rows), batch_size):
            real = self._pixels(rows[start : start + batch_size])
            made: Rendering = self.model(real)
            loss, _ = self._fidelity(made.plain_B1HW, real)
            if self.config.spectral_weight > 0:
                loss = loss + self.config.spectral_weight * spectral_distance(made.pixels_B1HW, real)
            total += float(loss) * len(real)
        return total / len(rows)

    @torch.no_grad()
    def revive(self, seed: int, step: int) -> None:
        """Moves codes that a sample of training images doesn't use onto what that sample leaves over at their level;
        those of a pretrained codebook stay."""
        model = self.model
        if not isinstance(model, VQGAN) or step % _REVIVE_EVERY or step >= self.config.train.steps * 3 // 4:
            return
        draw = stream(seed, "vqgan.revive", step)
        rows = np.sort(draw.choice(self.rows, size=min(len(self.rows), 128), replace=False))
        latents_BDhw = model.encode_to_latents(self._pixels(rows)).float()
        left_ND = latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
        for codebook_kD in model.codebook_KD.chunk(model.levels):
            dead = (torch.bincount(nearest(left_ND, codebook_kD), minlength=len(codebook_kD)) == 0).nonzero().flatten()
            chosen = torch.from_numpy(draw.choice(len(left_ND), size=len(dead), replace=len(dead) > len(left_ND)))
            codebook_kD[dead] = left_ND[chosen.to(left_ND.device)]
            left_ND = left_ND - codebook_kD[nearest(left_ND, codebook_kD)]

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


def spectral_distance(fake_B1HW: Tensor, real_B1HW: Tensor) -> Tensor:
    """Returns the mean distance of the log power of two batches of images, window by window and band by band, a scalar
    in nats.

    Windows are held against those in the same place: in a mean over all, sharp edges would be paid by grain, and grain
    by a few specks.
    """
    return (_log_power(fake_B1HW) - _log_power(real_B1HW)).abs().mean()


def _log_power(pixels_B1HW: Tensor) -> Tensor:
    """Returns the log power of an image's overlapping windows in bands of frequency, float32 [B, y, x, bands]."""
    taper, bands = _taper_and_bands(pixels_B1HW.device)
    windows = pixels_B1HW[:, 0].float().unfold(1, _WINDOW, _WINDOW // 2).unfold(2, _WINDOW, _WINDOW // 2)
    windows = (windows - windows.mean((-1, -2), keepdim=True)) * taper[:, None] * taper
    power = torch.fft.rfft2(windows).abs().square().flatten(-2)
    return (power @ bands + _LOWEST_POWER).log()


@cache
def _taper_and_bands(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the taper of a window, [side], and the mean over each band of its frequencies, [frequencies, bands]."""
    frequency = torch.hypot(torch.fft.fftfreq(_WINDOW)[:, None], torch.fft.rfftfreq(_WINDOW)[None]).flatten()
    bands = torch.arange(_WINDOW // 2) == (frequency * _WINDOW).round().sub(1)[:, None]
    return torch.hann_window(_WINDOW, device=device), (bands / bands.sum(0)).to(device)


def _adaptive_weight(fidelity: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Balances the gradients of both terms at the last layer (VQ-GAN eq. 7), capped at 1e4."""
    by_fidelity = torch.autograd.grad(fidelity, last_layer, retain_graph=True)[0]
    by_generator = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)[0]
    return (by_fidelity.norm() / (by_generator.norm() + 1e-4)).clamp(0, 1e4).detach()
