"""What readers' answers say: how well they tell films apart, and how far they agree with labels and each other.

Shapes: as ``estimates``'s; R readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu

from medsynth_core.chance import auroc, group_weights
from medsynth_core.corpus.records import NO_FINDING
from medsynth_core.evaluation.study.answers import Answer, Answers
from medsynth_core.evaluation.study.estimates import Estimate, Floats, estimate, kappas, mean_over, means, share
from medsynth_core.evaluation.study.key import Key
from medsynth_core.evaluation.study.scored import ORIGINS, Agreement, Mistaken, ReaderScore, Remark, StudyScore, Told
from medsynth_core.random import stream

_DRAWS = 1000
_MIN_CASES = 8
"""Films that have a finding and that don't have it, for an interval of its kappa."""


@dataclass(frozen=True)
class _Read:
    """A reader's answers in the key's order: taken for synthetic, realism [F], ticked [F, T]; NaN isn't answered."""

    synthetic_F: Floats
    realism_F: Floats
    ticked_FT: Floats
    seconds_F: Floats


@dataclass(frozen=True)
class _Truth:
    """What the films are: synthetic [F], labelled [F, T], weightings [D, F]."""

    synthetic_F: npt.NDArray[np.bool_]
    labelled_FT: Floats
    weights_DF: Floats
    findings: Sequence[str]

    def of(self, origin: str) -> npt.NDArray[np.bool_]:
        return self.synthetic_F if origin == "synthetic" else ~self.synthetic_F


def score_study(key: Key, answers: Sequence[Answers]) -> StudyScore:
    """Returns what the answers say.

    Intervals are of 95 %: Wilson's for one reader's shares, else by bootstrap over patients and prompts. They hold for
    these readers: how readers differ isn't in them.

    Args:
        answers: of different readers, checked against the key.
    """
    truth = _truth(key)
    reads = [_read(key, each) for each in answers]
    scores = [_score(truth, read, each) for read, each in zip(reads, answers, strict=True)]
    return StudyScore(
        key.study,
        key.release,
        len(key.films),
        scores,
        _told(truth, reads) if len(reads) > 1 else None,
        _between(truth, reads) if len(reads) > 1 else {},
        _mistaken(truth, reads),
        list(_remarks(key, answers)),
    )


def _truth(key: Key) -> _Truth:
    draw = stream(key.seed, "study.score", key.study)
    return _Truth(
        np.array([film.origin == "synthetic" for film in key.films]),
        np.array([[finding in film.findings for finding in key.findings] for film in key.films], dtype=float),
        group_weights([f"{film.origin} {film.group}" for film in key.films], _DRAWS, draw),
        key.findings,
    )


def _read(key: Key, answers: Answers) -> _Read:
    of_film = {answer.film: answer for answer in answers.answers}
    given = [of_film.get(film.film, Answer(film=film.film)) for film in key.films]
    unknown = [np.nan] * len(key.findings)
    return _Read(
        np.array([np.nan if each.origin is None else float(each.origin == "synthetic") for each in given]),
        np.array([np.nan if each.realism is None else float(each.realism) for each in given]),
        np.array([[float(f in each.findings) for f in key.findings] if each.findings else unknown for each in given]),
        np.array([each.seconds if each.origin or each.realism or each.findings else np.nan for each in given]),
    )


def _score(truth: _Truth, read: _Read, answers: Answers) -> ReaderScore:
    reader = answers.reader
    origin, findings, realism = (
        ~np.isnan(values) for values in (read.synthetic_F, read.ticked_FT[:, 0], read.realism_F)
    )
    seconds = read.seconds_F[~np.isnan(read.seconds_F)]
    return ReaderScore(
        reader.name,
        reader.role,
        reader.years,
        answers.saved,
        int((origin & findings & realism).sum()),
        int(origin.sum()),
        int(findings.sum()),
        int(realism.sum()),
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        told=_told(truth, [read]),
    )


def _told(truth: _Truth, reads: Sequence[_Read]) -> Told:
    """Returns the figures of one reader, or the means over several."""
    real, synthetic = truth.of("real"), truth.of("synthetic")
    return Told(
        {origin: _taken_for(truth.of(origin), reads) for origin in ORIGINS},
        _recognised(truth, reads, real | synthetic),
        _recognised(truth, reads, synthetic),
        _recognised(truth, reads, real),
        {
            origin: _mean_estimate(
                [means(read.realism_F[films], truth.weights_DF[:, films]) for read in reads],
                sum(int((~np.isnan(read.realism_F[films])).sum()) for read in reads),
            )
            for origin in ORIGINS
            for films in [truth.of(origin)]
        },
        _mean_estimate(
            [_more_realistic(truth, read) for read in reads],
            sum(int((~np.isnan(read.realism_F)).sum()) for read in reads),
        ),
        _mann_whitney(truth, reads[0]) if len(reads) == 1 else None,
        {origin: list(_agreement(truth, reads, truth.of(origin))) for origin in ORIGINS},
    )


def _taken_for(films: npt.NDArray[np.bool_], reads: Sequence[_Read]) -> dict[str, int]:
    called = np.concatenate([read.synthetic_F[films] for read in reads])
    return {"real": int((called == 0).sum()), "synthetic": int((called == 1).sum())}


def _recognised(truth: _Truth, reads: Sequence[_Read], films: npt.NDArray[np.bool_]) -> Estimate:
    """Returns the share of some films that were taken for what they are."""
    right = [
        np.where(np.isnan(read.synthetic_F), np.nan, read.synthetic_F == truth.synthetic_F)[films] for read in reads
    ]
    if len(right) == 1:
        return share(right[0])
    n = sum(int((~np.isnan(each)).sum()) for each in right)
    return _mean_estimate([means(each, truth.weights_DF[:, films]) for each in right], n)


def _mean_estimate(values: Sequence[Floats], n: int, interval: bool = True) -> Estimate:
    return estimate(mean_over(values), n, interval)


def _more_realistic(truth: _Truth, read: _Read) -> Floats:
    """Returns how often a real film is given more realism than a synthetic one, by weighting [D]."""
    known = ~np.isnan(read.realism_F)
    if not known.any():
        return np.full(len(truth.weights_DF), np.nan)
    return auroc(read.realism_F[known], ~truth.synthetic_F[known], truth.weights_DF[:, known])


def _mann_whitney(truth: _Truth, read: _Read) -> float | None:
    """Returns the two-sided p of realism (H. B. Mann, D. R. Whitney, Ann. Math. Stat. 18, 1947)."""
    sides = [read.realism_F[truth.of(origin) & ~np.isnan(read.realism_F)] for origin in ORIGINS]
    if not all(len(side) for side in sides):
        return None
    p = float(mannwhitneyu(*sides).pvalue)
    return None if np.isnan(p) else p


def _agreement(truth: _Truth, reads: Sequence[_Read], films: npt.NDArray[np.bool_]) -> Iterator[Agreement]:
    """Yields all findings together, then each. ``NO_FINDING`` follows from the others and isn't in the former."""
    named = [place for place, finding in enumerate(truth.findings) if finding != NO_FINDING]
    weights = truth.weights_DF[:, films]
    for name, columns in [(None, named), *((finding, [place]) for place, finding in enumerate(truth.findings))]:
        labelled = truth.labelled_FT[films][:, columns]
        ticked = [read.ticked_FT[films][:, columns] for read in reads]
        known = [~np.isnan(each) for each in ticked]
        cases = max(int((labelled * each).any(1).sum()) for each in known)
        others = max(int(each.any(1).sum()) for each in known) - (0 if name is None else cases)
        yield Agreement(
            name,
            int(sum((labelled * each).sum() for each in known)),
            int(sum(np.nansum(each) for each in ticked)),
            int(sum(np.nansum(labelled * each) for each in ticked)),
            _mean_estimate(
                [kappas(labelled, each, weights) for each in ticked],
                sum(int(each.sum()) for each in known),
                min(cases, others) >= _MIN_CASES,
            ),
        )


def _between(truth: _Truth, reads: Sequence[_Read]) -> dict[str, Estimate]:
    named = [place for place, finding in enumerate(truth.findings) if finding != NO_FINDING]
    views: dict[str, Callable[[_Read], Floats]] = {
        "origin": lambda read: read.synthetic_F,
        "findings": lambda read: read.ticked_FT[:, named],
        "realism": lambda read: read.realism_F,
    }
    found = {}
    for name, view in views.items():
        pairs = [(view(one), view(other)) for one, other in combinations(reads, 2)]
        n = sum(int((~np.isnan(one) & ~np.isnan(other)).sum()) for one, other in pairs)
        found[name] = _mean_estimate([kappas(one, other, truth.weights_DF) for one, other in pairs], n)
    return found


def _mistaken(truth: _Truth, reads: Sequence[_Read]) -> list[Mistaken]:
    counted: Counter[tuple[str, str, str]] = Counter()
    for read in reads:
        for place in np.flatnonzero(~np.isnan(read.ticked_FT[:, 0])).tolist():
            labelled, ticked = truth.labelled_FT[place] > 0, read.ticked_FT[place] > 0
            missed, added = (
                [name for name, chosen in zip(truth.findings, each, strict=True) if chosen] or [""]
                for each in (labelled & ~ticked, ticked & ~labelled)
            )
            origin = "synthetic" if truth.synthetic_F[place] else "real"
            counted.update((origin, one, other) for one in missed for other in added if one or other)
    return [Mistaken(*each, n) for each, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def _remarks(key: Key, answers: Sequence[Answers]) -> Iterator[Remark]:
    said: Mapping[str, list[tuple[str, str]]] = {film.film: [] for film in key.films}
    for each in answers:
        for answer in each.answers:
            if answer.remark:
                said[answer.film].append((each.reader.name, answer.remark))
    for number, film in enumerate(key.films, 1):
        for reader, remark in said[film.film]:
            yield Remark(number, film.film, film.origin, reader, remark)
