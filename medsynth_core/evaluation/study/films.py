"""The films of a study: accepted images drawn from a release, and held-out real ones with like findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.records import NO_FINDING, ImageU8
from medsynth_core.random import stream
from medsynth_core.release.reader import Release
from medsynth_core.training.pairs import read_pairs

Origin = Literal["real", "synthetic"]
_HELD_OUT = ("test", "val", "judge")
"""Splits that the generator never learnt from, in the order in which they are asked."""
_OTHER_VIEW = 4.0
_LATER_SPLIT = 1e-3
"""Costs of a pair beside that of unlike findings, which is 1 at most."""


@dataclass(frozen=True)
class Film:
    """One film that may be shown.

    Attributes:
        source: image id in the release, or view id in the corpus.
        group: prompt or patient; films of one are alike.
        split: of the corpus, or what the release calls it.
        view: frontal or lateral.
        findings: as prompted, or as the report says; ``NO_FINDING`` alone where there are none.
        load: returns the image.
    """

    origin: Origin
    source: str
    group: str
    split: str
    view: str
    findings: frozenset[str]
    load: Callable[[], ImageU8]


def synthetic_films(release: Release) -> list[Film]:
    """Returns the accepted images of a release.

    Raises:
        CorruptObjectError: a part of the manifest is damaged.
        IncompleteRunError: rows are missing, or too many.
    """
    columns = ["image_id", "prompt_id", "split", "view", "pathology", "shard", "offset", "size"]
    return [
        Film(
            "synthetic",
            row["image_id"],
            row["prompt_id"],
            row["split"],
            row["view"],
            _findings(row["pathology"]),
            partial(_released, release, row["shard"], row["offset"], row["size"]),
        )
        for row in release.manifest(columns).to_pylist()
    ]


def real_films(paths: Paths, views: Collection[str], n: int, training: bool) -> list[Film]:
    """Returns the real films in these views, of as few splits as have ``n`` patients: those of ``test``, then those
    that the generator didn't learn from either.

    Films that seem faulty are left out, and those whose report is undecided about a finding, which is neither there nor
    absent.

    Args:
        training: go on with the films that the generator learnt from when there are still too few.

    Raises:
        InputError: there is no corpus, or the vocabulary's labels don't belong to it.
    """
    found: list[Film] = []
    for split in (*_HELD_OUT, *(["train"] if training else [])):
        found += _of_split(paths, split, views)
        if len({film.group for film in found}) >= n:
            break
    return found


def pick(synthetic: Sequence[Film], real: Sequence[Film], n: int, seed: int) -> list[tuple[Film, Film]]:
    """Returns ``n`` pairs of a synthetic film and the real one that stands against it.

    The synthetic ones are drawn at random, one a prompt as long as there are prompts. The real ones are chosen, of one
    film a patient or of as few as will do, so that views and findings of all pairs together differ the least: the
    findings of a pair by one less the share of them that both films have (P. Jaccard, 1912); the assignment is SciPy's
    (D. F. Crouse, IEEE Trans. Aerosp. Electron. Syst. 52, 2016).

    Args:
        synthetic: ``n`` or more.
        real: ``n`` or more, split by split; of films that fit equally well those of an earlier split are taken.
    """
    drawn = [film for film, _ in _one_a_group_first(synthetic, seed)[:n]]
    ranked = _one_a_group_first(real, seed)
    films = [film for film, turn in ranked if turn <= ranked[n - 1][1]]
    splits = list(dict.fromkeys(film.split for film in real))
    later = np.array([_LATER_SPLIT * splits.index(film.split) for film in films])
    _, chosen = linear_sum_assignment(_unlikeness(drawn, films) + later)
    return [(film, films[place]) for film, place in zip(drawn, chosen.tolist(), strict=True)]


def shuffled(pairs: Sequence[tuple[Film, Film]], seed: int, secret: str) -> list[Film]:
    """Returns the films of all pairs in the order in which they are shown.

    Args:
        secret: the order depends on it beside the seed: whoever knows seed and code must not find it again.
    """
    films = [film for pair in pairs for film in pair]
    return [films[place] for place in stream(seed, "study.order", secret).permutation(len(films)).tolist()]


def _of_split(paths: Paths, split: str, views: Collection[str]) -> list[Film]:
    corpus = Corpus.open(paths["corpus"])
    listed = {row["row"]: row for row in corpus.views(split).to_pylist()}
    if not listed:
        return []
    pairs = read_pairs(paths, split)
    return [
        Film(
            "real",
            listed[row]["view_id"],
            patient,
            split,
            str(condition.view),
            _findings(condition.pathology),
            partial(_normalised, corpus, row),
        )
        for row, patient, condition, undecided in zip(
            pairs.rows.tolist(), pairs.patients, pairs.conditions, pairs.undecided, strict=True
        )
        if condition.view in views and not undecided and not listed[row].get("suspect")
    ]


def _one_a_group_first(films: Sequence[Film], seed: int) -> list[tuple[Film, int]]:
    """Returns films in random order, the first of every group before the second of any, and which of its group each
    is."""
    seen: Counter[str] = Counter()
    ranked = []
    for place in stream(seed, "study.films", films[0].origin).permutation(len(films)).tolist():
        film = films[place]
        ranked.append((film, seen[film.group]))
        seen[film.group] += 1
    return sorted(ranked, key=lambda each: each[1])


def _unlikeness(synthetic: Sequence[Film], real: Sequence[Film]) -> npt.NDArray[np.float64]:
    """Returns how badly each pair fits, [S, R]; reckoned once for all films of the same view and findings."""
    sides = [[(film.view, film.findings) for film in side] for side in (synthetic, real)]
    kinds = [list(dict.fromkeys(side)) for side in sides]
    costs = np.array([[_unlike(*ours, *theirs) for theirs in kinds[1]] for ours in kinds[0]])
    numbers = [{kind: number for number, kind in enumerate(each)} for each in kinds]
    rows, columns = ([number[kind] for kind in side] for number, side in zip(numbers, sides, strict=True))
    return costs[np.ix_(rows, columns)]


def _unlike(view: str, findings: frozenset[str], other_view: str, others: frozenset[str]) -> float:
    return _OTHER_VIEW * (view != other_view) + 1 - len(findings & others) / len(findings | others)


def _findings(pathologies: Sequence[str]) -> frozenset[str]:
    return frozenset(pathologies or [NO_FINDING])


def _released(release: Release, shard: str, offset: int, size: int) -> ImageU8:
    return np.array(release.image(shard, offset, size))


def _normalised(corpus: Corpus, row: int) -> ImageU8:
    image: ImageU8 = corpus.images(np.array([row], dtype=np.int64))[0]
    return image
