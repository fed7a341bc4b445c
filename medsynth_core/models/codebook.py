"""The visual codebook: patches of training images, searched by the words of a prompt (paper, module 2).

Each entry is one patch of one training image: the feature that was aligned (encoded in its own image), the
latent cell it covers and that cell's VQ code. Pixels are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import load_weights, save_weights
from medsynth_core.models.condition import phrases_of
from medsynth_core.random import stream

_SHAPES = {"features": "ED", "wholes": "ED", "usual": "CD", "cells": "E", "codes": "E", "patients": "E", "rows": "E"}
_ANSWERS = 0.5
"""A keypatch answers to the words at least this share as well as its finding's first."""


@dataclass(frozen=True)
class Keypatch:
    """One patch that answers to a text.

    Attributes:
        entry: index into the visual codebook.
        cell: row-major index of the latent cell.
        code: VQ code of that cell.
        score: how much better it answers to the finding's words than what is usual in its cell (``lift``), plus how
            well the image that it was cut from fits the finding as a whole.
        word: the word to which it answers best.
    """

    entry: int
    cell: int
    code: int
    score: float
    word: str


@dataclass(frozen=True)
class VisualCodebook:
    """Aligned patches.

    Attributes:
        features_ED: float32 [entries, D], L2-normalised.
        wholes_ED: float32 [entries, D], the aligned feature of the whole image that each entry was cut from.
        usual_CD: float32 [cells, D], the mean feature of every latent cell over the training images.
        cells_E: int64, latent cell of each entry.
        codes_E: int64, VQ code of each entry.
        patients_E: int64, how many training patients have the same code in the same cell.
        rows_E: int64, the training image that each entry was cut from: its row in the corpus.
        corpus: digest of that corpus.
    """

    features_ED: Tensor
    wholes_ED: Tensor
    usual_CD: Tensor
    cells_E: Tensor
    codes_E: Tensor
    patients_E: Tensor
    rows_E: Tensor
    corpus: str

    def __len__(self) -> int:
        return len(self.cells_E)

    def save(self, folder: Path) -> None:
        """Writes the codebook into ``folder``."""
        tensors = {name: getattr(self, f"{name}_{shape}") for name, shape in _SHAPES.items()}
        about = {"kind": "codebook", "entries": len(self), "corpus": self.corpus, "split": "train"}
        save_weights(folder, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> VisualCodebook:
        """Returns the saved codebook.

        Raises:
            InputError: the folder holds none.
        """
        tensors, about = load_weights(folder, "codebook")
        return cls(**{f"{name}_{shape}": tensors[name] for name, shape in _SHAPES.items()}, corpus=about["corpus"])

    @torch.inference_mode()
    def keypatches(self, model: AlignmentModel, queries: Sequence[str], top: int) -> list[list[Keypatch]]:
        """Returns the patches that answer to each query text, ``top`` at most and at most one a cell; its findings
        take turns, each with its best first.

        A query without a voting word gets none.
        """
        found = {voice.phrase: self._ranked(voice, top) for voice in _voices(model, queries)}
        return [_in_turn([found[phrase] for phrase in phrases_of(query)], top) for query in queries]

    def random_keypatches(self, queries: Sequence[str], top: int) -> list[list[Keypatch]]:
        """Returns ``top`` entries a query that have nothing to do with it, at most one a cell; the same every time
        for the same query. What alignment is worth is measured against them."""
        found = []
        for query in queries:
            draw = stream(0, "codebook.random_keypatches", query)
            order = torch.from_numpy(draw.permutation(len(self)))
            entries = self._one_a_cell(order, top).tolist()
            found.append([Keypatch(e, int(self.cells_E[e]), int(self.codes_E[e]), 0.0, "") for e in entries])
        return found

    def _one_a_cell(self, order_E: Tensor, top: int) -> Tensor:
        """Returns the first ``top`` entries of an order, later ones of the same cell left out."""
        if len(self) == 0:
            return order_E
        first_C = torch.full((int(self.cells_E.max()) + 1,), len(self))
        first_C.scatter_reduce_(0, self.cells_E[order_E], torch.arange(len(self)), "amin")
        ranks = first_C.sort().values[:top]
        return order_E[ranks[ranks < len(self)]]

    def _ranked(self, voice: _Voice, top: int) -> list[Keypatch]:
        """Returns the best entries for a finding, one a cell, without those that answer less than half as well to its
        words as the first."""
        if not voice.words or top == 0 or len(self) == 0:
            return []
        device = voice.whole_D.device
        usual_ED = self.usual_CD.to(device)[self.cells_E.to(device)]
        lift_EW = lift(self.features_ED.to(device), usual_ED, voice.features_WD)
        local_E, choice_E = lift_EW.mean(1).cpu(), lift_EW.argmax(1).cpu()
        score_E = local_E + (self.wholes_ED.to(device) @ voice.whole_D).cpu()
        entries = self._one_a_cell(torch.sort(score_E, descending=True, stable=True).indices, top)
        entries = entries[local_E[entries] >= _ANSWERS * local_E[entries[0]]]
        picked = (entries, self.cells_E[entries], self.codes_E[entries], score_E[entries], choice_E[entries])
        return [
            Keypatch(entry, cell, code, score, voice.words[choice])
            for entry, cell, code, score, choice in zip(*(column.tolist() for column in picked), strict=True)
        ]


@dataclass(frozen=True)
class _Voice:
    """The phrase of a finding: the words that vote in it with their features [W, D], and its feature as a whole [D]."""

    phrase: str
    words: list[str]
    features_WD: Tensor
    whole_D: Tensor


def _voices(model: AlignmentModel, queries: Sequence[str]) -> list[_Voice]:
    """Returns each distinct finding of the queries."""
    phrases = sorted({phrase for query in queries for phrase in phrases_of(query)})
    words = model.encode_words(phrases)
    found = []
    for index, phrase in enumerate(phrases):
        voters = words.votes_TW[index].nonzero().flatten()
        said = [words.words[index][voter] for voter in voters.tolist()]
        found.append(_Voice(phrase, said, words.features_TWD[index, voters], words.global_TD[index]))
    return found


def lift(features_PD: Tensor, usual_PD: Tensor, words_WD: Tensor) -> Tensor:
    """Returns how much nearer each patch is to each word than what is usual in its cell, [P, W] in [-2, 2].

    Without it, the words of a finding would also choose what every chest shows at the finding's place.
    """
    return (features_PD - usual_PD) @ words_WD.T


def _in_turn(rankings: Sequence[Sequence[Keypatch]], top: int) -> list[Keypatch]:
    """Returns the first ``top`` of several rankings, dealt out in turn, later ones of the same cell left out."""
    first: dict[int, Keypatch] = {}
    for turn in zip_longest(*rankings):
        for patch in turn:
            if patch is not None:
                first.setdefault(patch.cell, patch)
    return list(first.values())[:top]
