"""Training of the word-patch alignment and building of the visual codebook."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medsynth_core.config import Config, Paths, config_digest
from medsynth_core.config.tree import AlignmentConfig
from medsynth_core.hashing import sha256_tree
from medsynth_core.models.alignment import AlignmentModel, alignment_losses, local_scores
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.text import load_tokenizer, train_tokenizer
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.progress import Progress
from medsynth_core.quality.calibration import save_scores
from medsynth_core.training.finish import TrainingReport, checkpoint_path, finish
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs

STAGE_VERSION = 2
_PHRASE_SHARE = 0.5
"""Share of training texts replaced by the bare finding phrases, the form in which prompts query."""
_CANDIDATES_PER_IMAGE = 12
_JUDGED = 256
"""Held-out pairs that judge a checkpoint."""


def run(config: Config, paths: Paths, progress: Progress) -> TrainingReport:
    """Trains both encoders, builds the visual codebook and writes them to ``paths.alignment``.

    Raises:
        InputError: there are no training pairs, or no VQ-GAN.
        StateError: training diverged.
    """
    settings = config.models.alignment
    accelerator = make_accelerator(config)
    device = accelerator.device
    pairs, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    vqgan = VQGAN.load(paths.vqgan).to(device)
    corpus_digest = sha256_tree(paths.corpus)
    torch.manual_seed(config.seed)
    if settings.text_model is None:
        tokenizer = train_tokenizer(pairs.texts + pairs.queries, config.vocabulary.min_studies)
    else:
        tokenizer = load_tokenizer(settings.text_model)
    model = AlignmentModel.fresh(settings, config.latent_side, tokenizer).to(device)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        short = batch.draws(1)[:, 0] < _PHRASE_SHARE
        texts = [(pairs.queries if s else pairs.texts)[i] for i, s in zip(batch.picks.tolist(), short, strict=True)]
        return _losses(module, pairs, batch.picks, texts, settings, device)

    def validate() -> float:
        every = np.arange(min(len(held_out), _JUDGED))
        chunks = np.array_split(every, max(1, len(every) // settings.train.batch_size))
        losses = [_losses(model, held_out, c, [held_out.queries[i] for i in c], settings, device) for c in chunks]
        return float(np.mean([float(value["total"]) for value in losses]))

    trained = train(
        [Objective("alignment", model, loss)],
        len(pairs),
        settings.train,
        accelerator=accelerator,
        key=config_digest(STAGE_VERSION, config.seed, settings, corpus_digest, model_digest(paths.vqgan)),
        seed=config.seed,
        checkpoint=checkpoint_path(paths, "alignment"),
        progress=progress,
        validate=validate,
    )
    metrics = retrieval(model, held_out)
    calibration = held_out_agreement(model, held_out)
    codebook = build_codebook(model, vqgan, pairs, settings, corpus_digest)
    metrics["codebook_entries"] = float(len(codebook))

    def save(folder: Path) -> None:
        model.save(folder)
        codebook.save(folder / "codebook")
        save_scores(folder, "agreement", calibration)

    return finish("alignment", save, paths, trained, metrics, accelerator)


def _losses(
    module: nn.Module,
    pairs: Pairs,
    picks: np.ndarray,
    texts: list[str],
    settings: AlignmentConfig,
    device: torch.device,
) -> Losses:
    words, patches, scale = module(texts, torch.from_numpy(pairs.pixels(picks)).to(device))
    keys = pairs.label_keys[picks]
    same = torch.from_numpy(keys[:, None] == keys[None]).to(device)
    losses = alignment_losses(words, patches, scale, same, settings.global_weight)
    return {"total": losses["local"] + losses["global"], **losses}


@torch.inference_mode()
def retrieval(model: AlignmentModel, pairs: Pairs, limit: int = 256) -> dict[str, float]:
    """Returns text-to-image recall@{1,5,10} over at most ``limit`` held-out pairs.

    A hit is an image that shows the same findings on the same sides: many studies share a report's content.
    """
    picks = np.arange(min(limit, len(pairs)))
    words = model.encode_words([pairs.queries[i] for i in picks.tolist()])
    patches = model.encode_patches(torch.from_numpy(pairs.pixels(picks)).to(model.device))
    score_BT = sum(local_scores(words, patches)) + patches.global_BD @ words.global_TD.T
    keys = torch.from_numpy(pairs.label_keys[picks])
    ranked_TB = score_BT.T.argsort(dim=1, descending=True).cpu()
    hits_TB = keys[ranked_TB] == keys[:, None]
    return {f"recall_at_{k}": float(hits_TB[:, :k].any(1).float().mean()) for k in (1, 5, 10)} | {
        "recall_at_1_by_chance": float((keys[:, None] == keys[None]).float().mean())
    }


@torch.inference_mode()
def held_out_agreement(model: AlignmentModel, pairs: Pairs, limit: int = 512, batch_size: int = 64) -> list[float]:
    """Returns the agreement scores of at most ``limit`` real held-out pairs: what quality calibrates on."""
    scores: list[float] = []
    for start in range(0, min(limit, len(pairs)), batch_size):
        pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(model.device)
        scores += model.agreement(pixels, pairs.queries[start : start + batch_size]).tolist()
    return scores


@torch.inference_mode()
def build_codebook(
    model: AlignmentModel,
    vqgan: VQGAN,
    pairs: Pairs,
    settings: AlignmentConfig,
    corpus_digest: str,
    batch_size: int = 32,
) -> VisualCodebook:
    """Returns the training patches that answer best to their own report's findings.

    A patch is a candidate when it is among its image's best for the words of its own findings. It enters when
    at least ``codebook_min_patients`` patients have the same code in the same cell (a keypatch is a piece of
    somebody's image); of one code in one cell only the best few are kept, and one a patient.
    """
    features, cells, codes, scores, images = [], [], [], [], []
    patients_of: dict[tuple[int, int], set[str]] = defaultdict(set)
    for start in range(0, len(pairs), batch_size):
        pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(model.device)
        stop = start + len(pixels)
        words = model.encode_words(pairs.queries[start:stop])
        patches_BPD = model.encode_patches(pixels).features_BPD
        codes_BP = vqgan.encode_to_codes(pixels).flatten(1).cpu()
        similarity_BPW = patches_BPD @ words.features_TWD.transpose(1, 2)
        best_BP = similarity_BPW.masked_fill(~words.votes_TW[:, None], -1.0).amax(-1).cpu()
        for image in range(len(pixels)):
            for cell, code in enumerate(codes_BP[image].tolist()):
                patients_of[cell, code].add(pairs.patients[start + image])
            top = best_BP[image].topk(min(_CANDIDATES_PER_IMAGE, best_BP.shape[1])).indices
            features.append(patches_BPD[image, top.to(model.device)].cpu())
            cells.append(top)
            codes.append(codes_BP[image, top])
            scores.append(best_BP[image, top])
            images += [start + image] * len(top)
    kept = _select(torch.cat(cells), torch.cat(codes), torch.cat(scores), images, pairs, patients_of, settings)
    cells_E, codes_E = torch.cat(cells)[kept], torch.cat(codes)[kept]
    seen = [len(patients_of[key]) for key in zip(cells_E.tolist(), codes_E.tolist(), strict=True)]
    return VisualCodebook(
        torch.cat(features)[kept],
        cells_E,
        codes_E,
        torch.tensor(seen, dtype=torch.int64),
        torch.from_numpy(pairs.rows[np.array(images)[kept.numpy()]]),
        corpus_digest,
    )


def _select(
    cells: Tensor,
    codes: Tensor,
    scores: Tensor,
    images: list[int],
    pairs: Pairs,
    patients_of: dict[tuple[int, int], set[str]],
    settings: AlignmentConfig,
) -> Tensor:
    per_place = max(4, settings.codebook_size // max(1, len(patients_of)))
    taken: dict[tuple[int, int], set[str]] = defaultdict(set)
    kept: list[int] = []
    for index in torch.sort(scores, descending=True, stable=True).indices.tolist():
        place, patient = (int(cells[index]), int(codes[index])), pairs.patients[images[index]]
        if len(taken[place]) >= per_place or len(patients_of[place]) < settings.codebook_min_patients:
            continue
        if patient in taken[place]:
            continue
        taken[place].add(patient)
        kept.append(index)
        if len(kept) == settings.codebook_size:
            break
    return torch.tensor(kept, dtype=torch.int64)
