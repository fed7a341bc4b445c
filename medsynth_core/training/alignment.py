"""Training of the word-patch alignment and building of the visual codebook."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError
from medsynth_core.models.alignment import AlignmentModel, alignment_losses, local_scores
from medsynth_core.models.codebook import VisualCodebook, lift
from medsynth_core.models.condition import phrases_of
from medsynth_core.models.settings import AlignmentConfig, grid_problem
from medsynth_core.models.text import load_tokenizer, train_tokenizer
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.progress import Progress
from medsynth_core.random import seed_of
from medsynth_core.training.examples import image_codes
from medsynth_core.training.finish import TrainingReport, checkpoint_path, finish
from medsynth_core.training.loop import Batch, Losses, Objective, make_accelerator, train
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.settings import AlignmentParams
from medsynth_core.training.words_picture import draw_words

log = logging.getLogger(__name__)

_CANDIDATES_PER_FINDING = 8
_JUDGED = 256
"""Held-out pairs that judge a checkpoint."""


def run(params: AlignmentParams, paths: Paths, progress: Progress, *, key: str) -> TrainingReport:
    """Trains both encoders, builds the visual codebook and writes them.

    Raises:
        InputError: there are no training pairs, or no image tokenizer.
        ConfigError: its cells can't be the patches.
        StateError: training diverged.
    """
    settings = params.alignment
    accelerator = make_accelerator(params)
    device = accelerator.device
    pairs, held_out = read_pairs(paths, "train"), read_pairs(paths, "val")
    image_tokenizer = load_image_tokenizer(paths["vqgan"]).to(device)
    corpus_digest = paths.digest("corpus")
    torch.manual_seed(seed_of(params.seed, "alignment"))
    if settings.text_model is None:
        tokenizer = train_tokenizer([*pairs.texts, *(each.query for each in pairs.conditions)], params.min_studies)
    else:
        tokenizer = load_tokenizer(settings.text_model)
    image_size, downsampling = pairs.corpus.image_size, image_tokenizer.downsampling
    if (problem := grid_problem(image_size, downsampling, settings, str(paths["vqgan"]))) is not None:
        raise ConfigError(problem)
    side = image_size // downsampling
    model = AlignmentModel.fresh(settings, side, tokenizer).to(device)

    def loss(module: nn.Module, batch: Batch) -> Losses:
        return _losses(module, pairs, batch.picks, settings, device)

    def validate() -> float:
        every = np.arange(min(len(held_out), _JUDGED))
        chunks = np.array_split(every, max(1, len(every) // settings.train.batch_size))
        return float(np.mean([float(_losses(model, held_out, c, settings, device)["total"]) for c in chunks]))

    trained = train(
        [Objective("alignment", model, loss)],
        len(pairs),
        settings.train,
        accelerator=accelerator,
        key=key,
        seed=params.seed,
        checkpoint=checkpoint_path(paths, "alignment"),
        progress=progress,
        validate=validate,
    )
    metrics = retrieval(model, held_out)
    codebook = build_codebook(model, image_tokenizer, pairs, settings, corpus_digest)
    metrics["codebook_entries"] = float(len(codebook))

    def save(folder: Path) -> None:
        model.save(folder)
        codebook.save(folder / "codebook")
        draw_words(model, codebook, held_out, folder / "words.png")

    return finish("alignment", save, paths, trained, metrics, accelerator)


def _losses(
    module: nn.Module,
    pairs: Pairs,
    picks: np.ndarray,
    settings: AlignmentConfig,
    device: torch.device,
) -> Losses:
    """Returns the terms of a batch. A report speaks by its positive findings in words, the form in which prompts
    query; what it denies, and what it says of every normal chest, is in no patch."""
    texts = [pairs.conditions[pick].query for pick in picks]
    words, patches, scale = module(texts, torch.from_numpy(pairs.pixels(picks)).to(device))
    keys = pairs.label_keys[picks]
    same = torch.from_numpy(keys[:, None] == keys[None]).to(device)
    losses = alignment_losses(words, patches, scale, same, settings.global_weight)
    return {"total": losses["local"] + losses["global"], **losses}


@torch.inference_mode()
def retrieval(model: AlignmentModel, pairs: Pairs, limit: int = 256) -> dict[str, float]:
    """Returns text-to-image recall@{1,5,10} over at most ``limit`` held-out pairs.

    A hit is an image that shows the same findings in the same places: many studies share a report's content.
    """
    picks = np.arange(min(limit, len(pairs)))
    words = model.encode_words([pairs.conditions[i].query for i in picks.tolist()])
    patches = model.encode_patches(torch.from_numpy(pairs.pixels(picks)).to(model.device))
    score_BT = local_scores(words, patches) + patches.global_BD @ words.global_TD.T
    keys = torch.from_numpy(pairs.label_keys[picks])
    ranked_TB = score_BT.T.argsort(dim=1, descending=True).cpu()
    hits_TB = keys[ranked_TB] == keys[:, None]
    return {f"recall_at_{k}": float(hits_TB[:, :k].any(1).float().mean()) for k in (1, 5, 10)} | {
        "recall_at_1_by_chance": float((keys[:, None] == keys[None]).float().mean())
    }


@torch.inference_mode()
def build_codebook(
    model: AlignmentModel,
    image_tokenizer: ImageTokenizer,
    pairs: Pairs,
    settings: AlignmentConfig,
    corpus_digest: str,
    batch_size: int = 32,
) -> VisualCodebook:
    """Returns the training patches that answer best to their own report's findings.

    A patch is a candidate when it is among its image's best for a finding of its report. It enters when at least
    ``codebook_min_patients`` patients have the same code in the same cell (a keypatch is a piece of somebody's
    image); of one code in one cell only the best few are kept, and one a patient. Of several levels the first one's
    code counts, which is what a keypatch tells the language model.
    """
    codes_NP = image_codes(pairs, image_tokenizer, batch_size)[:, : model.side**2]
    patients_PK = _patients_showing(codes_NP.numpy(), pairs.patients, image_tokenizer.codes)
    usual_PD = torch.zeros(model.side**2, settings.dim, dtype=torch.float64)
    for start in range(0, len(pairs), batch_size):
        pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(model.device)
        usual_PD += model.encode_patches(pixels).features_BPD.sum(0).cpu() / len(pairs)
    usual_PD = usual_PD.float()
    found = _candidates(model, pairs, codes_NP, usual_PD, batch_size)
    kept = _select(found, patients_PK, pairs.patients, settings)
    if len(kept) == 0:
        log.warning(
            "alignment: no patch has look-alikes of %d patients; the language model gets no keypatches",
            settings.codebook_min_patients,
        )
    features, wholes = [torch.zeros(0, settings.dim)], [torch.zeros(0, settings.dim)]
    for part in kept.split(batch_size):
        images_B, cells_B = found.images_N[part], found.cells_N[part]
        patches = model.encode_patches(torch.from_numpy(pairs.pixels(images_B.numpy())).to(model.device))
        features.append(patches.features_BPD[torch.arange(len(part)), cells_B.to(model.device)].cpu())
        wholes.append(patches.global_BD.cpu())
    cells_E, codes_E = found.cells_N[kept], found.codes_N[kept]
    return VisualCodebook(
        torch.cat(features),
        torch.cat(wholes),
        usual_PD,
        cells_E,
        codes_E,
        patients_PK[cells_E, codes_E],
        torch.from_numpy(pairs.rows[found.images_N[kept].numpy()]),
        corpus_digest,
    )


def _patients_showing(codes_NP: np.ndarray, patients: list[str], codes: int) -> Tensor:
    """Returns how many patients show each code in each cell, int64 [P, K]."""
    _, patient_N = np.unique(np.array(patients), return_inverse=True)
    shown = [np.unique(patient_N * codes + codes_N) % codes for codes_N in codes_NP.T]
    return torch.from_numpy(np.stack([np.bincount(each, minlength=codes) for each in shown]))


@dataclass(frozen=True)
class _Candidates:
    """Patches that may enter: cells, codes, lifts, images, and the finding of each by number; tensors [N]."""

    cells_N: Tensor
    codes_N: Tensor
    scores_N: Tensor
    images_N: Tensor
    findings_N: Tensor


def _candidates(
    model: AlignmentModel, pairs: Pairs, codes_NP: Tensor, usual_PD: Tensor, batch_size: int
) -> _Candidates:
    """Returns the best patches of every image for every finding of its report."""
    none = torch.zeros(0, dtype=torch.int64)
    rows = [(none, none, torch.zeros(0), none, none)]
    numbers: dict[str, int] = {}
    usual_PD = usual_PD.to(model.device)
    top = min(_CANDIDATES_PER_FINDING, len(usual_PD))
    for start in range(0, len(pairs), batch_size):
        pixels = torch.from_numpy(pairs.flat_pixels(start, start + batch_size)).to(model.device)
        features_BPD = model.encode_patches(pixels).features_BPD
        asked = [
            (image, phrase)
            for image in range(len(pixels))
            for phrase in dict.fromkeys(phrases_of(pairs.conditions[start + image].query))
        ]
        words = model.encode_words([phrase for _, phrase in asked])
        for row, (image, phrase) in enumerate(asked):
            voting_WD = words.features_TWD[row, words.votes_TW[row]]
            if len(voting_WD) == 0:
                continue
            best = lift(features_BPD[image], usual_PD, voting_WD).mean(1).topk(top)
            cells = best.indices.cpu()
            codes = codes_NP[start + image, cells]
            about = torch.tensor([start + image, numbers.setdefault(phrase, len(numbers))]).expand(top, 2)
            rows.append((cells, codes, best.values.cpu(), about[:, 0], about[:, 1]))
    return _Candidates(*map(torch.cat, zip(*rows, strict=True)))


def _select(found: _Candidates, patients_PK: Tensor, patients: list[str], settings: AlignmentConfig) -> Tensor:
    """Returns the candidates that enter, best first; the findings take turns, so that rare ones have theirs."""
    per_place = max(4, settings.codebook_size // int((patients_PK > 0).sum()))
    order = torch.sort(found.scores_N, descending=True, stable=True).indices
    turns: dict[int, int] = defaultdict(int)
    turn_N = []
    for finding in found.findings_N[order].tolist():
        turn_N.append(turns[finding])
        turns[finding] += 1
    order = order[torch.sort(torch.tensor(turn_N), stable=True).indices]
    taken: dict[tuple[int, int], set[str]] = defaultdict(set)
    kept: list[int] = []
    for index in order.tolist():
        place = int(found.cells_N[index]), int(found.codes_N[index])
        patient = patients[int(found.images_N[index])]
        if len(taken[place]) >= per_place or int(patients_PK[place]) < settings.codebook_min_patients:
            continue
        if patient in taken[place]:
            continue
        taken[place].add(patient)
        kept.append(index)
        if len(kept) == settings.codebook_size:
            break
    return torch.tensor(kept, dtype=torch.int64)
