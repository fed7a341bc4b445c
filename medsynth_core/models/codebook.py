"""The visual codebook: patches of training images, searched by the words of a prompt (paper, module 2).

Each entry is one patch of one training image: the feature that was aligned (encoded in its own image), the
latent cell it covers and that cell's VQ code. Pixels are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.artifact import load_weights, save_weights


@dataclass(frozen=True)
class Keypatch:
    """One patch that answers to a text.

    Attributes:
        entry: index into the visual codebook.
        cell: row-major index of the latent cell.
        code: VQ code of that cell.
        score: cosine with the word that chose it.
        word: that word.
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
        cells_E: int64, latent cell of each entry.
        codes_E: int64, VQ code of each entry.
        patients_E: int64, how many training patients have the same code in the same cell.
        rows_E: int64, the training image that each entry was cut from: its row in the corpus.
        corpus: digest of that corpus.
    """

    features_ED: Tensor
    cells_E: Tensor
    codes_E: Tensor
    patients_E: Tensor
    rows_E: Tensor
    corpus: str

    def __len__(self) -> int:
        return len(self.cells_E)

    def save(self, folder: Path) -> None:
        """Writes the codebook into ``folder``."""
        tensors = {
            "features": self.features_ED,
            "cells": self.cells_E,
            "codes": self.codes_E,
            "patients": self.patients_E,
            "rows": self.rows_E,
        }
        about = {"kind": "codebook", "entries": len(self), "corpus": self.corpus, "split": "train"}
        save_weights(folder, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> VisualCodebook:
        """Returns the saved codebook.

        Raises:
            InputError: the folder holds none.
        """
        tensors, about = load_weights(folder, "codebook")
        features_ED, cells_E, codes_E = tensors["features"], tensors["cells"], tensors["codes"]
        return cls(features_ED, cells_E, codes_E, tensors["patients"], tensors["rows"], about["corpus"])

    @torch.inference_mode()
    def keypatches(self, model: AlignmentModel, queries: Sequence[str], top: int) -> list[list[Keypatch]]:
        """Returns the ``top`` patches of each query text, best first, at most one a cell.

        A patch's score is its best cosine over the words that vote. A query without a voting word gets none.
        """
        words = model.encode_words(queries)
        features_ED = self.features_ED.to(model.device)
        found: list[list[Keypatch]] = []
        for index in range(len(queries)):
            voters = words.votes_TW[index].nonzero().flatten()
            if top == 0 or len(voters) == 0:
                found.append([])
                continue
            score_E, choice_E = (features_ED @ words.features_TWD[index, voters].T).max(1)
            found.append(self._ranked(score_E, choice_E, [words.words[index][v] for v in voters.tolist()], top))
        return found

    def random_keypatches(self, queries: Sequence[str], top: int) -> list[list[Keypatch]]:
        """Returns ``top`` entries a query that have nothing to do with it, at most one a cell; the same every time
        for the same query. What alignment is worth is measured against them."""
        found = []
        for query in queries:
            draw = np.random.default_rng(list(query.encode()))
            order = torch.from_numpy(draw.permutation(len(self)))
            entries = self._one_a_cell(order, top).tolist()
            found.append([Keypatch(e, int(self.cells_E[e]), int(self.codes_E[e]), 0.0, "") for e in entries])
        return found

    def _one_a_cell(self, order_E: Tensor, top: int) -> Tensor:
        """Returns the first ``top`` entries of an order, later ones of the same cell left out."""
        first_C = torch.full((int(self.cells_E.max()) + 1,), len(self))
        first_C.scatter_reduce_(0, self.cells_E[order_E], torch.arange(len(self)), "amin")
        ranks = first_C.sort().values[:top]
        return order_E[ranks[ranks < len(self)]]

    def _ranked(self, score_E: Tensor, choice_E: Tensor, voters: list[str], top: int) -> list[Keypatch]:
        order_E = torch.sort(score_E.cpu(), descending=True, stable=True).indices
        entries = self._one_a_cell(order_E, top)
        picked = (entries, self.cells_E[entries], self.codes_E[entries], score_E[entries], choice_E[entries])
        return [
            Keypatch(entry, cell, code, score, voters[choice])
            for entry, cell, code, score, choice in zip(*(column.tolist() for column in picked), strict=True)
        ]
