"""The visual codebook: patches of training images, searched by the words of a prompt (paper, module 2).

Each entry is one patch of one training image: the feature that was aligned (encoded in its own image), the
latent cell it covers and that cell's VQ code. Pixels are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """

    features_ED: Tensor
    cells_E: Tensor
    codes_E: Tensor
    patients_E: Tensor

    def __len__(self) -> int:
        return len(self.cells_E)

    def save(self, folder: Path) -> None:
        """Writes the codebook into ``folder``."""
        tensors = {
            "features": self.features_ED,
            "cells": self.cells_E,
            "codes": self.codes_E,
            "patients": self.patients_E,
        }
        save_weights(folder, tensors, {"kind": "codebook", "entries": len(self)})

    @classmethod
    def load(cls, folder: Path) -> VisualCodebook:
        """Returns the saved codebook.

        Raises:
            InputError: the folder holds none.
        """
        tensors, _ = load_weights(folder, "codebook")
        return cls(tensors["features"], tensors["cells"], tensors["codes"], tensors["patients"])

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

    def _ranked(self, score_E: Tensor, choice_E: Tensor, voters: list[str], top: int) -> list[Keypatch]:
        order_E = torch.sort(score_E.cpu(), descending=True, stable=True).indices
        first_C = torch.full((int(self.cells_E.max()) + 1,), len(self))
        first_C.scatter_reduce_(0, self.cells_E[order_E], torch.arange(len(self)), "amin")
        ranks = first_C.sort().values[:top]
        entries = order_E[ranks[ranks < len(self)]]
        picked = (entries, self.cells_E[entries], self.codes_E[entries], score_E[entries], choice_E[entries])
        return [
            Keypatch(entry, cell, code, score, voters[choice])
            for entry, cell, code, score, choice in zip(*(column.tolist() for column in picked), strict=True)
        ]
