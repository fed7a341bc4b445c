"""Training of the language model: predict an image's tokens from its report and keypatches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medsynth_core.config import Config, Paths, config_digest
from medsynth_core.corpus.images import to_u8
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import model_digest, pick_device
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.text import load_tokenizer
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.progress import Progress
from medsynth_core.quality.calibration import save_scores
from medsynth_core.quality.duplicate import Signatures, nearest, save_reference, signatures
from medsynth_core.training.loop import (
    Losses,
    TrainingReport,
    batch_indices,
    finish,
    optimise,
    step_generator,
    train,
)
from medsynth_core.training.pairs import Pairs, read_pairs

log = logging.getLogger(__name__)

STAGE_VERSION = 1
_HARDLY_LEARNT = 0.8
"""Share of a blind guess's loss above which samples show no anatomy."""
_JUDGED = 64
"""Held-out pairs that judge a checkpoint."""


def run(config: Config, paths: Paths, progress: Progress) -> TrainingReport:
    """Trains the language model on the training pairs and writes it to ``paths.llm``.

    Keypatches of a training report are retrieved from the visual codebook by its words, exactly as those of a
    prompt are, never read off the image that is to be predicted.

    Raises:
        InputError: there are no training pairs, or an earlier model is missing.
        StateError: training diverged.
    """
    settings = config.models.llm
    device = pick_device(config.device)
    vqgan = VQGAN.load(paths.vqgan).to(device)
    alignment = AlignmentModel.load(paths.alignment).to(device)
    codebook = VisualCodebook.load(paths.alignment / "codebook")
    pairs, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    tokenizer = load_tokenizer(settings.base or paths.alignment / "tokenizer")
    torch.manual_seed(config.seed)
    model = ImageLanguageModel.fresh(settings, config.latent_side**2, config.models.vqgan.codes, tokenizer).to(device)
    examples = _Examples(pairs, vqgan, alignment, codebook, settings.keypatches)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=settings.train.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.train.weight_decay,
    )

    def step(step: int) -> Losses:
        picks = batch_indices(len(pairs), settings.train.batch_size, config.seed, step)
        dropped = step_generator(config.seed, step).random(len(picks)) < settings.text_dropout
        prefixes = [
            model.empty_prefix(pairs.views[i]) if drop else examples.prefix(model, i)
            for i, drop in zip(picks.tolist(), dropped, strict=True)
        ]
        loss = model.image_loss(prefixes, examples.codes_NT[picks])
        optimise(loss, optimiser, model, settings.train, step)
        return {"image": loss.detach()}

    key = config_digest(STAGE_VERSION, config.seed, settings, model_digest(paths.alignment))
    held_out_examples = _Examples(held_out, vqgan, alignment, codebook, settings.keypatches)
    checkpoint = paths.checkpoints / "llm.safetensors"
    trained = train(
        step,
        settings.train,
        key=key,
        seed=config.seed,
        modules={"llm": model},
        optimisers={"llm": optimiser},
        checkpoint=checkpoint,
        progress=progress,
        validate=lambda: image_loss(model, held_out_examples, lambda i: held_out_examples.prefix(model, i), _JUDGED),
    )
    metrics = evaluate(model, held_out_examples)
    _warn_of_noise(metrics["loss"], config.models.vqgan.codes, len(pairs))
    seen = decoded_signatures(vqgan, examples.codes_NT)
    distances, _ = nearest(decoded_signatures(vqgan, held_out_examples.codes_NT), seen)

    def save(folder: Path) -> None:
        model.save(folder)
        save_reference(folder, seen)
        save_scores(folder, "copy", distances.tolist())

    return finish("llm", save, paths.llm, checkpoint, settings.train.steps, trained, metrics)


def _warn_of_noise(loss: float, codes: int, n_pairs: int) -> None:
    guess = math.log(codes)
    if loss > _HARDLY_LEARNT * guess:
        log.warning(
            "llm: %.2f nats an image token on held-out pairs, where a blind guess among %d codes costs %.2f: "
            "its images will be noise. %d training pairs are too few; add studies, or set models.path",
            loss,
            codes,
            guess,
            n_pairs,
        )


class _Examples:
    """Image tokens and keypatches of every pair, computed once."""

    def __init__(
        self,
        pairs: Pairs,
        vqgan: VQGAN,
        alignment: AlignmentModel,
        codebook: VisualCodebook,
        top: int,
        batch_size: int = 32,
    ) -> None:
        self.pairs = pairs
        codes = []
        for start in range(0, len(pairs), batch_size):
            pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size))
            codes.append(vqgan.encode_to_codes(pixels.to(alignment.device)).flatten(1).cpu())
        self.codes_NT = torch.cat(codes)
        distinct = sorted(set(pairs.queries))
        found: dict[str, list[Keypatch]] = {}
        for start in range(0, len(distinct), batch_size):
            chunk = distinct[start : start + batch_size]
            found.update(zip(chunk, codebook.keypatches(alignment, chunk, top), strict=True))
        self.keypatches = [found[query] for query in pairs.queries]

    def prefix(self, model: ImageLanguageModel, index: int) -> list[int]:
        return model.prefix(self.pairs.texts[index], self.pairs.views[index], self.keypatches[index])


def decoded_signatures(vqgan: VQGAN, codes_NT: torch.Tensor, batch_size: int = 32) -> Signatures:
    """Returns the signatures of images as the VQ-GAN renders them from their codes, int64 [N, T]."""
    side = round(codes_NT.shape[1] ** 0.5)
    device = vqgan.codebook_KD.device
    return np.concatenate(
        [
            signatures(to_u8(vqgan.decode_codes(codes.view(-1, side, side).to(device))[:, 0].cpu().numpy()))
            for codes in codes_NT.split(batch_size)
        ]
    )


def image_loss(
    model: ImageLanguageModel,
    examples: _Examples,
    prefix: Callable[[int], list[int]],
    limit: int | None = None,
    batch_size: int = 32,
) -> float:
    """Returns nats an image token over at most ``limit`` pairs, each after the prefix that its index gives."""
    n = min(limit or len(examples.pairs), len(examples.pairs))
    total = 0.0
    for start in range(0, n, batch_size):
        stop = min(n, start + batch_size)
        loss = model.image_loss([prefix(index) for index in range(start, stop)], examples.codes_NT[start:stop])
        total += float(loss) * (stop - start)
    return total / n


@torch.inference_mode()
def evaluate(model: ImageLanguageModel, examples: _Examples) -> dict[str, float]:
    """Returns nats an image token on held-out pairs, with their own conditioning, without any, and with that of
    another study: the gaps say how much text and keypatches tell."""
    n, views = len(examples.pairs), examples.pairs.views
    return {
        "loss": image_loss(model, examples, lambda index: examples.prefix(model, index)),
        "loss_unconditional": image_loss(model, examples, lambda index: model.empty_prefix(views[index])),
        "loss_shuffled": image_loss(model, examples, lambda index: examples.prefix(model, (index + n // 2) % n)),
    }
