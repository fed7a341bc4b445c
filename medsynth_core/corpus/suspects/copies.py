"""Films that show the same exposure as a film of another patient does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects import looks
from medsynth_core.corpus.suspects.looks import CELLS, CHUNK, Field, Indices
from medsynth_core.corpus.suspects.overlay import register, warp
from medsynth_core.random import seed_of

_LEAST_ALIKE, _ROUGHLY, _COPY = 0.7, 0.93, 0.68
"""Least correlation of a copy: of coarse thumbnails as they are, of smooth ones once overlaid, of fine structure."""
_SLACK = 1e-3
_NEAREST = 5


def copies(thumbnails: ImageU8, groups: Indices) -> list[tuple[int, int, float]]:
    """Returns the films that show the same exposure as another patient's, each with that film and how alike they are.

    Coarse thumbnails give each film's nearest others; those are laid on each other by scaling and shifting, and then
    their fine structure has to agree, which that of another exposure, even of the same patient, does not. In a corpus
    whose films are usually that much alike, as drawn ones are, a copy has to be as much more so.

    Args:
        thumbnails: uint8 [N, 64, 64].
        groups: the patient's number of each film, [N].
    """
    if len(thumbnails) < 2:
        return []
    films = looks.flattened(thumbnails, 8.0)
    smooth = looks.softened(looks.softened(looks.pooled(films, 2)))
    pairs = _alike_pairs(looks.pooled(films, 4), groups)
    pairs, placed, alike = _overlaid(smooth, pairs, np.zeros((len(pairs), 4), dtype=np.float32), step=2)
    rough = alike > _ROUGHLY
    pairs, placed, _ = _overlaid(looks.softened(films), pairs[rough], placed[rough], step=2)
    pairs, placed, alike = _overlaid(looks.flattened(thumbnails, 2.0), pairs, placed, step=1, rounds=0)
    best: dict[int, tuple[float, int]] = {}
    for (one, other), score in zip(pairs.tolist(), alike.tolist(), strict=True):
        best[one] = max(best.get(one, (0.0, -1)), (score, other))
        best[other] = max(best.get(other, (0.0, -1)), (score, one))
    usual = np.median([best.get(index, (0.0, -1))[0] for index in range(len(thumbnails))])
    least = 1 - (1 - _COPY) * (1 - usual) + _SLACK
    return [(index, other, score) for index, (score, other) in sorted(best.items()) if score > least]


def alike_films(thumbnails: ImageU8, shown: Indices, most: int, seed: int) -> list[Indices]:
    """Returns groups of films that look alike at a glance, as places in ``shown``: about ``most`` in each, and never
    more than twice as many. A film is in two of them, so that a copy shares one with what it is a copy of; where there
    are no more than ``most``, all are one group.

    Args:
        thumbnails: uint8 [N, 64, 64].
        shown: those that are to be parted.
    """
    if len(shown) <= most:
        return [np.arange(len(shown))]
    parts = (shown[at : at + CHUNK] for at in range(0, len(shown), CHUNK))
    glances = np.concatenate([_glances(thumbnails[part]) for part in parts])
    return _parted(glances, np.arange(len(glances)), most, seed)


def _glances(thumbnails: ImageU8) -> Field:
    """Returns films as 8 x 8 cells without brightness and contrast, float32 [N, 64]."""
    cells = looks.pooled(thumbnails.astype(np.float32), 8).reshape(len(thumbnails), -1)
    cells -= cells.mean(1, keepdims=True)
    return cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-6)


def _parted(glances: Field, films: Indices, most: int, seed: int) -> list[Indices]:
    from sklearn.cluster import MiniBatchKMeans  # here, for it takes 40 MB that a small corpus can do without

    own = glances[films]
    count = max(2, -(-2 * len(own) // most))
    draw = seed_of(seed, "corpus.copies") % 2**32
    centres = MiniBatchKMeans(count, batch_size=1024, max_iter=20, n_init=1, random_state=draw).fit(own)
    nearest = np.concatenate(
        [np.argpartition(centres.transform(own[at : at + CHUNK]), 1)[:, :2] for at in range(0, len(own), CHUNK)]
    )
    groups = [films[(nearest == number).any(1)] for number in range(count)]
    parted: list[Indices] = []
    for group in groups:
        too_many = len(group) > 2 * most
        if too_many and len(group) < len(films):
            parted += _parted(glances, group, most, seed)
        else:
            parted += np.array_split(group, -(-len(group) // (2 * most))) if too_many else [group]
    return [group for group in parted if len(group) > 1]


def _alike_pairs(coarse: Field, groups: Indices) -> Indices:
    """Returns pairs of films of different patients whose coarse thumbnails [N, 16, 16] correlate, [P, 2]."""
    rows = coarse.reshape(-1, CELLS**2)
    rows = rows - rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
    count = min(_NEAREST, len(rows))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(rows), CHUNK):
        alike = rows[start : start + CHUNK] @ rows.T
        alike[groups[start : start + CHUNK, None] == groups] = -1.0
        nearest = np.argpartition(alike, -count, axis=1)[:, -count:]
        for row, column in zip(*np.nonzero(np.take_along_axis(alike, nearest, 1) > _LEAST_ALIKE), strict=True):
            one, other = start + int(row), int(nearest[row, column])
            pairs.add((min(one, other), max(one, other)))
    return np.array(sorted(pairs), dtype=np.intp).reshape(-1, 2)


def _overlaid(
    films: Field, pairs: Indices, placed: Field, step: int, rounds: int = 6
) -> tuple[Indices, Field, npt.NDArray[np.float64]]:
    """Returns the pairs [P, 2], the scales and shifts [P, 4] that overlay their films, and how those then correlate.

    Args:
        films: [N, n, n].
        placed: where to start from; shifts are shares of the side.
        step: only every ``step``-th pixel is compared.
        rounds: of Gauss-Newton.
    """
    alike = np.zeros(len(pairs))
    placed = placed.copy()
    for start in range(0, len(pairs), CHUNK):
        chunk = slice(start, start + CHUNK)
        fixed, moving = films[pairs[chunk, 0]], films[pairs[chunk, 1]]
        placed[chunk] = register(fixed, moving, placed[chunk], step, rounds)
        warped, inside = warp(moving, placed[chunk], step)
        alike[chunk] = np.where(inside.mean((1, 2)) > 0.6, _correlation(fixed[:, ::step, ::step], warped, inside), 0.0)
    return pairs, placed, alike


def _correlation(a: Field, b: Field, inside: Field) -> Field:
    """Returns the correlation [P] of films [P, n, n] where ``inside`` is 1."""
    weight = inside / inside.sum((1, 2), keepdims=True).clip(1.0)
    a, b = (film - (weight * film).sum((1, 2), keepdims=True) for film in (a, b))
    return (weight * a * b).sum((1, 2)) / np.sqrt((weight * a * a).sum((1, 2)) * (weight * b * b).sum((1, 2)) + 1e-12)
