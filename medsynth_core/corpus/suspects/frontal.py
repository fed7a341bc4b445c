"""Which films aren't right frontal ones, learnt from the films themselves by kernel ridge regression.

Most films are taken to be right; turned, mirrored and inverted versions of a film come for free (``looks``). A film is
judged by what was learnt from other patients' films alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects import looks
from medsynth_core.corpus.suspects.looks import CHUNK, Field, Indices
from medsynth_core.corpus.suspects.made import made_images
from medsynth_core.corpus.suspects.overlay import register, warped
from medsynth_core.corpus.suspects.suspect import Suspect

MOST_TO_LEARN = 3000
"""At most so many films are learnt from; all are judged."""

_TURNS = tuple((turns, inverted) for inverted in (False, True) for turns in range(4))[1:]
"""The wrong versions of a film: (quarter turns counter-clockwise, inverted)."""

_WIDTH = 115.0
"""Typical squared distance of two films' edges, the scale of the kernel."""
_FEWEST_PATIENTS = 20
"""With fewer patients, each film is taken for a patient of its own."""
_RIGHT = -0.25
"""Least score of a right frontal film."""
_MADE_RIGHT = -0.1
"""Least score of a film that was made right by turning or inverting it."""
_MIRRORED, _DOUBT = -0.1, 0.5
"""A mirrored film's margin is smaller than this, and by a share of what its score lacks to a usual film's, 0.9."""


def learnt(thumbnails: ImageU8, groups: Indices, draw: np.random.Generator) -> list[Suspect]:
    """Returns the films that are turned, inverted, mirrored or no frontal chest, of uint8 [N, 64, 64]."""
    if groups.max() + 1 < _FEWEST_PATIENTS:
        groups = np.arange(len(groups))
    films = looks.flattened(thumbnails, 8.0)
    edges = looks.edges_of(films)
    pool = _pool(groups, draw)
    frontal = _Frontal(thumbnails, edges, groups, pool, draw)
    scores = frontal.scores(np.arange(len(edges)), edges)
    suspects = []
    wrong = np.flatnonzero(scores < _RIGHT)
    versions = [frontal.scores(wrong, looks.changed(edges[wrong], *change)) for change in _TURNS]
    for index, version in zip(wrong.tolist(), np.stack(versions, 1), strict=True):
        suspects += _explained(index, float(scores[index]), version)
    right = scores >= _RIGHT
    model = pool[right[pool]]
    if not len(model):
        return suspects
    margins = _mirror_margins([edges, looks.edges_of(_aligned(films, model))], model)
    beyond = _MIRRORED - _DOUBT * (0.9 - scores).clip(0, None) - margins
    mirrored = np.flatnonzero(right & (beyond > 0))
    return suspects + [Suspect(int(index), "mirrored", float(beyond[index])) for index in mirrored]


def _explained(index: int, score: float, versions: Field) -> list[Suspect]:
    """Returns what is wrong with a film that has a low score, by the scores [7] of its turned and inverted versions."""
    best = int(np.argmax(versions))
    if versions[best] < max(_MADE_RIGHT, score + 0.5):
        return [Suspect(index, "not a frontal chest", -score)]
    turns, inverted = _TURNS[best]
    gain = float(versions[best]) - score
    suspects = [Suspect(index, "inverted", gain)] if inverted else []
    if turns:
        suspects.append(Suspect(index, "turned", gain, turned_by=360 - 90 * turns))
    return suspects


def _pool(groups: Indices, draw: np.random.Generator) -> Indices:
    """Returns the films to learn from: whole patients in random order, up to about ``MOST_TO_LEARN`` films."""
    place = draw.permutation(int(groups.max()) + 1)[groups]
    order = np.argsort(place, kind="stable")
    if len(order) > MOST_TO_LEARN:
        order = order[place[order] <= place[order[MOST_TO_LEARN - 1]]]
    return np.sort(order)


def _kernel(a: Field, b: Field) -> Field:
    """Returns the Gaussian kernel of rows [n, D] and [m, D], [n, m]."""
    distance = a @ b.T
    distance *= -2
    distance += (a * a).sum(1)[:, None]
    distance += (b * b).sum(1)
    np.maximum(distance, 0, out=distance)
    distance *= np.float32(-1 / _WIDTH)
    return np.exp(distance, out=distance)


def _even(a: Field, b: Field, b_mirrored: Field) -> Field:
    return _kernel(a, b) + _kernel(a, b_mirrored)


class _Frontal:
    """Tells right frontal films (about 1) from turned or inverted ones and other images (about -1).

    The patients are halved, and a film is judged by what was learnt from the half that it isn't in; this is done for
    a few halvings and averaged. The first films to learn from are those most like all the others; after that, those
    that were judged right.
    """

    _ROUNDS = 3
    _HALVINGS = 2
    _MOST = 1200
    _RIDGE = 0.03

    def __init__(
        self, thumbnails: ImageU8, edges: Field, groups: Indices, pool: Indices, draw: np.random.Generator
    ) -> None:
        self._thumbnails, self._edges, self._draw = thumbnails, edges, draw
        patients = int(groups.max()) + 1
        halvings = [(draw.permutation(patients) % 2)[groups] for _ in range(self._HALVINGS)]
        trusted = pool[_typical(looks.rows(edges[pool]), looks.rows(looks.mirrored(edges[pool])))]
        self._learn(trusted, halvings[:1])
        for number in range(1, self._ROUNDS):
            scores = self.scores(pool, edges[pool])
            trusted = pool[scores > min(0.3, float(np.median(scores)))]
            self._learn(trusted, halvings if number == self._ROUNDS - 1 else halvings[:1])

    def scores(self, films: Indices, edges: Field) -> Field:
        """Returns the scores [n] of versions of films, edges [n, 8, 16, 16]."""
        scores = np.zeros(len(films), dtype=np.float32)
        for learnt_from, (known, known_mirrored, weights) in self._models:
            others = np.flatnonzero(~learnt_from[films])
            for start in range(0, len(others), CHUNK):
                chunk = others[start : start + CHUNK]
                scores[chunk] += _even(looks.rows(edges[chunk]), known, known_mirrored) @ weights
        return scores / (len(self._models) // 2)

    def _learn(self, trusted: Indices, halvings: Sequence[Indices]) -> None:
        halves = [halving == half for halving in halvings for half in (0, 1)]
        self._models = [(half, self._model(trusted[half[trusted]])) for half in halves]

    def _model(self, films: Indices) -> tuple[Field, Field, Field]:
        if len(films) > self._MOST:
            films = np.sort(self._draw.choice(films, self._MOST, replace=False))
        right = self._edges[films]
        share = -(-len(films) // 12)
        wrong = [looks.changed(right[self._draw.permutation(len(films))[:share]], *change) for change in _TURNS]
        drawn = made_images(self._thumbnails[films], len(films) * 5 // 4, self._draw)
        made = looks.edges_of(looks.flattened(drawn, 8.0))
        edges = np.concatenate([right, *wrong, made])
        known, known_mirrored = looks.rows(edges), looks.rows(looks.mirrored(edges))
        target = np.where(np.arange(len(known)) < len(films), 1.0, -1.0).astype(np.float32)
        kernel = _even(known, known, known_mirrored)
        kernel[np.diag_indices_from(kernel)] += self._RIDGE
        return known, known_mirrored, cho_solve(cho_factor(kernel, overwrite_a=True), target)


def _typical(rows: Field, mirrored: Field) -> npt.NDArray[np.bool_]:
    """Returns which films, edges as rows [n, D], are among the half most like each other."""
    alike = _even(rows, rows, mirrored)
    trusted = np.ones(len(rows), dtype=bool)
    for _ in range(2):
        mean = alike[:, trusted].mean(1)
        trusted = mean >= np.median(mean)
    return trusted


def _mirror_margins(views: Sequence[Field], pool: Indices) -> Field:
    """Returns how much more each film looks as it is (about 1) than mirrored (about -1), [N].

    Learnt from the films of the pool, each left out when it is judged itself; a patient's other films stay in, as
    they tell most. After each round the films that seem mirrored are taken for it, and in the last one the doubtful
    ones count less.

    Args:
        views: edges of all films [N, 8, 16, 16], in one view or more, whose kernels are averaged.
        pool: the films to learn from.
    """
    known = [(looks.rows(edges[pool]), looks.rows(looks.mirrored(edges[pool]))) for edges in views]
    kernel = _odd([rows for rows, _ in known], known)
    kernel = (kernel + kernel.T) / 2
    margins, weights = _left_out(kernel, np.ones(len(pool), np.float32), np.ones(len(pool), np.float32))
    for weighted in (False, False, True):
        target = np.where(margins < 0, -1, 1).astype(np.float32)
        trust = np.clip(2 * np.abs(margins), 0.05, 1) if weighted else np.ones_like(margins)
        margins, weights = _left_out(kernel, target, trust)
    result = np.empty(len(views[0]), dtype=np.float32)
    for start in range(0, len(result), CHUNK):
        chunk = slice(start, start + CHUNK)
        result[chunk] = _odd([looks.rows(edges[chunk]) for edges in views], known) @ weights
    result[pool] = margins
    return result


def _odd(views: Sequence[Field], known: Sequence[tuple[Field, Field]]) -> Field:
    """Returns the kernel [n, m] that changes its sign when a film is mirrored, averaged over views."""
    kernels = [_kernel(rows, b) - _kernel(rows, b_mirrored) for rows, (b, b_mirrored) in zip(views, known, strict=True)]
    return sum(kernels[1:], kernels[0]) / len(kernels)


def _left_out(kernel: Field, target: Field, trust: Field) -> tuple[Field, Field]:
    """Returns what each film [n] gets from all the others, and the weights [n] learnt from all."""
    ridged = kernel.copy()
    ridged[np.diag_indices_from(ridged)] += 0.1 / trust
    inverse = np.linalg.inv(ridged)
    weights = inverse @ target
    return target - weights / np.diag(inverse), weights


def _aligned(films: Field, model: Indices) -> Field:
    """Returns flattened films [N, 64, 64] scaled and shifted towards the mean of some of them made symmetric."""
    smooth = looks.softened(looks.softened(looks.pooled(films, 2)))
    placed = np.zeros((len(films), 4), dtype=np.float32)
    for _ in range(3):
        seen = warped(smooth[model], placed[model])
        mean = (seen + seen[:, :, ::-1]).mean(0) / 2
        for start in range(0, len(films), CHUNK):
            chunk = slice(start, start + CHUNK)
            fixed = np.broadcast_to(2 * mean, smooth[chunk].shape)
            placed[chunk] = register(fixed, smooth[chunk], placed[chunk], step=2, rounds=4)
    return warped(films, placed)
