"""The faulty films of a corpus, found from the films themselves, without weights or labels.

Blank films and copies are found by direct measures, the others as ``frontal`` says. All is deterministic given the
seed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import joblib
import numpy as np

from medsynth_core.cores import processes_for
from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects import looks
from medsynth_core.corpus.suspects.copies import alike_films, copies
from medsynth_core.corpus.suspects.frontal import learnt
from medsynth_core.corpus.suspects.looks import CELLS, SIDE, Indices
from medsynth_core.corpus.suspects.suspect import Suspect
from medsynth_core.random import stream

log = logging.getLogger(__name__)

BLOCK = 4000
"""Films that are looked at together."""
FEWEST_TO_LEARN = 200
"""With fewer films that aren't blank, only blank films and copies are looked for."""


def find_suspects(thumbnails: ImageU8, patients: Sequence[str], seed: int) -> list[Suspect]:
    """Returns the films of a corpus that seem faulty, by index; all cores look.

    Films are looked at in blocks of some ``BLOCK`` from all over, each of which learns from its own; copies are looked
    for among all films that look alike at a glance. In a block with fewer than ``FEWEST_TO_LEARN`` films that aren't
    blank there is nothing to learn from: only blank films and copies are found, and a warning is logged.

    Args:
        thumbnails: all films, borders trimmed, scaled to a square by area, air dark; uint8 [N, 64, 64].
        patients: the patient of each film, N of them; "" when unknown.
        seed: of the sample learnt from and of the made images.

    Raises:
        ValueError: the thumbnails' shape or dtype or the number of patients is wrong.
    """
    if thumbnails.dtype != np.uint8 or thumbnails.shape[1:] != (SIDE, SIDE) or len(thumbnails) != len(patients):
        raise ValueError(
            f"want uint8 [N, {SIDE}, {SIDE}] and N patients, got {thumbnails.dtype} {list(thumbnails.shape)} "
            f"and {len(patients)}"
        )
    groups = _groups(patients)
    blocks = _blocks(len(thumbnails), seed)
    looked_at = joblib.Parallel(n_jobs=processes_for(len(blocks), 1))(
        joblib.delayed(_looked_at)(np.array(thumbnails[films]), groups[films], seed) for films in blocks
    )
    suspects = [
        replace(suspect, index=int(films[suspect.index]))
        for films, found in zip(blocks, looked_at, strict=True)
        for suspect in found
    ]
    blank = {suspect.index for suspect in suspects if suspect.kind == "blank"}
    shown = np.array([index for index in range(len(thumbnails)) if index not in blank], dtype=np.intp)
    alike = [shown[places] for places in alike_films(thumbnails, shown, BLOCK, seed)]
    compared = joblib.Parallel(n_jobs=processes_for(len(alike), 1))(
        joblib.delayed(copies)(np.array(thumbnails[films]), groups[films]) for films in alike
    )
    nearest: dict[int, Suspect] = {}
    for films, found in zip(alike, compared, strict=True):
        for index, other, score in found:
            suspect = Suspect(int(films[index]), "copy", score, copy_of=int(films[other]))
            nearest[suspect.index] = max(suspect, nearest.get(suspect.index, suspect), key=lambda each: each.score)
    return sorted([*suspects, *nearest.values()], key=lambda suspect: (suspect.index, suspect.kind))


def _blocks(n: int, seed: int) -> list[Indices]:
    """Returns the films of each block, drawn from all over the corpus: in a block of laterals a lateral is usual."""
    count = max(1, round(n / BLOCK))
    films = np.arange(n) if count == 1 else stream(seed, "corpus.blocks").permutation(n)
    return [np.sort(block) for block in np.array_split(films, count)]


def _looked_at(thumbnails: ImageU8, groups: Indices, seed: int) -> list[Suspect]:
    """Returns what one block shows of itself, but for copies."""
    suspects = blanks(thumbnails)
    blank = {suspect.index for suspect in suspects}
    shown = np.array([index for index in range(len(thumbnails)) if index not in blank], dtype=np.intp)
    if len(shown) < FEWEST_TO_LEARN:
        log.warning(
            "corpus: %d films are too few to learn from (%d): only blank ones and copies were looked for, not "
            "inverted, turned or mirrored films nor other images",
            len(shown),
            FEWEST_TO_LEARN,
        )
        return suspects
    found = learnt(thumbnails[shown], groups[shown], stream(seed, "corpus.suspects"))
    return suspects + [replace(suspect, index=int(shown[suspect.index])) for suspect in found]


def _groups(patients: Sequence[str]) -> Indices:
    """Returns a number for each film's patient; films of unknown patients have one each."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(patient or f"\0{index}", len(numbers)) for index, patient in enumerate(patients)],
        dtype=np.intp,
    )


def blanks(thumbnails: ImageU8) -> list[Suspect]:
    """Returns the films, of uint8 [N, 64, 64], that show nothing: flat up to a slope, or black or white all over."""
    coarse = looks.pooled(thumbnails.astype(np.float32), 4).reshape(-1, CELLS**2)
    y, x = np.mgrid[-1 : 1 : CELLS * 1j, -1 : 1 : CELLS * 1j]
    plane = np.linalg.qr(np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1))[0].astype(np.float32)
    rest = (coarse - coarse @ plane @ plane.T).std(1)
    saturated = np.maximum((thumbnails >= 250).mean((1, 2)), (thumbnails <= 5).mean((1, 2)))
    score = np.maximum(1 - rest / 14, saturated / 1.5)
    return [Suspect(int(index), "blank", float(score[index])) for index in np.flatnonzero(score > 0.5)]
