"""The faulty films of a corpus, found from the films themselves, without weights or labels.

Blank films and copies are found by direct measures, the others as ``frontal`` says. All is deterministic given the
seed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects import looks
from medsynth_core.corpus.suspects.copies import copies
from medsynth_core.corpus.suspects.frontal import learnt
from medsynth_core.corpus.suspects.looks import CELLS, SIDE, Indices
from medsynth_core.corpus.suspects.suspect import Suspect
from medsynth_core.random import stream

log = logging.getLogger(__name__)

FEWEST_TO_LEARN = 200
"""With fewer films that aren't blank, only blank films and copies are looked for."""


def find_suspects(thumbnails: ImageU8, patients: Sequence[str], seed: int) -> list[Suspect]:
    """Returns the films of a corpus that seem faulty, by index.

    With fewer than ``FEWEST_TO_LEARN`` films that aren't blank there is nothing to learn from: only blank films and
    copies are found, and a warning is logged.

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
    suspects = blanks(thumbnails)
    blank = {suspect.index for suspect in suspects}
    shown = np.array([index for index in range(len(thumbnails)) if index not in blank], dtype=np.intp)
    films, groups = thumbnails[shown], _groups([patients[index] for index in shown])
    found = [Suspect(index, "copy", score, copy_of=other) for index, other, score in copies(films, groups)]
    if len(films) < FEWEST_TO_LEARN:
        log.warning(
            "corpus: %d films are too few to learn from (%d): only blank ones and copies were looked for, not "
            "inverted, turned or mirrored films nor other images",
            len(films),
            FEWEST_TO_LEARN,
        )
    else:
        found += learnt(films, groups, stream(seed, "corpus.suspects"))
    suspects += [_at(shown, suspect) for suspect in found]
    return sorted(suspects, key=lambda suspect: (suspect.index, suspect.kind))


def _at(places: Indices, suspect: Suspect) -> Suspect:
    other = None if suspect.copy_of is None else int(places[suspect.copy_of])
    return replace(suspect, index=int(places[suspect.index]), copy_of=other)


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
