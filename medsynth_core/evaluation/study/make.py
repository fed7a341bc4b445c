"""Making of a study: the page for readers, the key, and notes for those who send the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.records import NO_FINDING, ImageU8
from medsynth_core.errors import InputError
from medsynth_core.evaluation.page.neighbours import is_of_drawings
from medsynth_core.evaluation.study.films import Film, pick, real_films, shuffled, synthetic_films
from medsynth_core.evaluation.study.key import KEY, Key, KeyFilm
from medsynth_core.evaluation.study.mosaic import make_mosaic
from medsynth_core.evaluation.study.notes import notes
from medsynth_core.evaluation.study.page import write_page
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.atomic import create_directory

PAGE, NOTES = "study.html", "notes.md"


@dataclass(frozen=True)
class Plan:
    """What a study is to be.

    Attributes:
        n: films of either kind.
        seed: with which films are drawn.
        secret: what order and tokens depend on beside the seed, since whoever knows that and this code could else tell
            one film from another.
        rev: tag of the release; None: the workspace's newest.
        permitted: the corpus' terms allow to show its films to the readers, says who makes the study.
        training: real films from which the generator learnt may be shown if there are too few others.
    """

    n: int
    seed: int
    secret: str
    rev: str | None = None
    permitted: bool = False
    training: bool = False


def make_study(plan: Plan, paths: Paths, out: Path, progress: Progress) -> Key:
    """Writes ``study.html`` for the readers, ``key.json`` and ``notes.md`` into a new folder, and returns the key.

    Raises:
        InputError: there is no corpus or no release; the films are of patients and nobody said that they may be shown;
            there are too few; ``out`` exists and isn't an empty folder.
        WithdrawnError: the release was taken back.
        CorruptObjectError: a file of the release is damaged.
    """
    about = _shown_corpus(paths, plan.permitted)
    with create_directory(out) as folder:
        release = open_release(paths.root, plan.rev)
        pairs = _pairs(plan, paths, release)
        shown = shuffled(pairs, plan.seed, plan.secret)
        images: list[ImageU8] = []
        for film in shown:
            progress(len(images), len(shown))
            images.append(film.load())
        mosaic = make_mosaic(images)
        progress(len(shown), len(shown))
        study, *tokens = _tokens(plan, 1 + len(shown))
        key = Key(
            study=study,
            release=release.name,
            corpus=about["kind"],
            licence=about["licence"],
            side=mosaic.side,
            seed=plan.seed,
            findings=_asked(shown),
            films=tuple(_key_film(film, token) for film, token in zip(shown, tokens, strict=True)),
        )
        write_page(folder / PAGE, study, tokens, mosaic, key.findings, drawings=is_of_drawings(paths))
        key.save(folder / KEY)
        text = notes(key, pairs, release.info, about, (folder / PAGE).stat().st_size, str(out))
        (folder / NOTES).write_text(text, "utf-8")
    return key


def _shown_corpus(paths: Paths, permitted: bool) -> dict[str, Any]:
    """Returns what is known of the corpus, if its films may be shown: the phantom's always, patients' by permission."""
    Corpus.open(paths["corpus"])
    about: dict[str, Any] = json.loads((paths["corpus"] / "corpus.json").read_text("utf-8"))
    if not (permitted or is_of_drawings(paths)):
        raise InputError(
            f"{paths['corpus']}: its films are of patients, and a study shows them to its readers; the corpus' terms: "
            f"{about['licence']}. If these and whoever is responsible allow it, say --i-may-show-real-films"
        )
    return about


def _pairs(plan: Plan, paths: Paths, release: Release) -> list[tuple[Film, Film]]:
    synthetic = synthetic_films(release)
    if len(synthetic) < plan.n:
        raise InputError(f"{release.where}: {len(synthetic)} accepted images; ask for as many at most, --films N")
    real = real_films(paths, {film.view for film in synthetic}, plan.n, plan.training)
    if len(real) < plan.n:
        more = "" if plan.training else "; --from-training adds those that the generator learnt from"
        raise InputError(
            f"{paths['corpus']}: {len(real)} {'' if plan.training else 'held-out '}films in the release's views whose "
            f"findings are known; ask for as many at most, --films N{more}"
        )
    return pick(synthetic, real, plan.n, plan.seed)


def _tokens(plan: Plan, n: int) -> list[str]:
    draw = stream(plan.seed, "study.tokens", plan.secret)
    return [draw.bytes(6).hex() for _ in range(n)]


def _asked(films: Sequence[Film]) -> tuple[str, ...]:
    """Returns the findings of the films, and ``NO_FINDING`` first."""
    return NO_FINDING, *sorted({finding for film in films for finding in film.findings} - {NO_FINDING})


def _key_film(film: Film, token: str) -> KeyFilm:
    return KeyFilm(
        film=token,
        origin=film.origin,
        source=film.source,
        group=film.group,
        split=film.split,
        view=film.view,
        findings=tuple(sorted(film.findings)),
    )
