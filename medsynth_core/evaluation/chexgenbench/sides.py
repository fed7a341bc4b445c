"""The images that are compared, found and checked before any network looks at one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.tables import header
from medsynth_core.errors import InputError
from medsynth_core.evaluation.chexgenbench.making import Maker
from medsynth_core.evaluation.chexgenbench.pictures import NOTHING, Pictures, Places, check_file, of_files
from medsynth_core.evaluation.chexgenbench.protocol import LABELS, PATH, PRIVACY_IMAGES, PROMPT, pathologies_of
from medsynth_core.evaluation.chexgenbench.reidentified import NEAREST
from medsynth_core.evaluation.chexgenbench.reidentified import PROMPT as BY_PROMPT
from medsynth_core.evaluation.chexgenbench.request import Request
from medsynth_core.evaluation.chexgenbench.tables import (
    Annotation,
    Made,
    check_complete,
    read_annotations,
    read_made,
)
from medsynth_core.evaluation.settings import EvaluationParams
from medsynth_core.progress import Progress
from medsynth_core.random import stream
from medsynth_core.release.reader import Release, open_release
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.training.pairs import read_pairs

PRIVACY_FOLDER = "privacy"
"""Below ``--make``: images of training prompts."""
_HELD_OUT = "test"


@dataclass(frozen=True)
class Sides:
    """What is compared.

    Attributes:
        training: real images that the control is taken of; it may be empty.
        privacy: images whose patients are looked for in ``sources``; nothing where there are no training images.
        paired_by: ``prompt`` or ``nearest``, see ``reidentified``.
        caption: column that the prompts are of.
        doubts: why figures don't compare with the board's, whatever networks there are.
        left_out: what isn't measured, and why.
    """

    name: str
    synthetic: Pictures
    real: Pictures
    training: Pictures
    privacy: Pictures
    sources: Pictures
    paired_by: str
    caption: str
    doubts: tuple[str, ...]
    left_out: tuple[str, ...]


def gather(
    request: Request, params: EvaluationParams, synthesis: SynthesisParams, paths: Paths, progress: Progress
) -> Sides:
    """Returns the sides; images are made last, when all else is known to be there.

    Raises:
        InputError: a file, column, prompt or image is missing or can't be read; the message names file and row.
    """
    return (
        _of_release(request, params, paths)
        if request.prompts is None
        else _of_prompts(request, params, synthesis, paths, progress)
    )


def _of_release(request: Request, params: EvaluationParams, paths: Paths) -> Sides:
    release, most = open_release(request.release or paths.root, request.rev), params.evaluation.max_images
    views = set(release.manifest(["view"])["view"].to_pylist())
    synthetic = _released(release, most, params.seed)
    real, doubts = _real(request, params, paths, views)
    training = _training(request, params, paths, views, len(synthetic))
    doubts = ["the prompts are the release's own", *doubts]
    return Sides(
        name=request.name or release.name,
        synthetic=synthetic,
        real=real,
        training=training,
        privacy=synthetic if len(training) else NOTHING,
        sources=training,
        paired_by=NEAREST,
        caption="prompt",
        doubts=tuple(doubts),
        left_out=_left_out(training, synthetic),
    )


def _of_prompts(
    request: Request, params: EvaluationParams, synthesis: SynthesisParams, paths: Paths, progress: Progress
) -> Sides:
    assert request.prompts is not None
    every = read_annotations(request.prompts, request.real_dir, needs_film=False)
    asked = _some(every, request.max_prompts, params.seed, "chexgenbench.prompts")
    doubts = [] if len(asked) == len(every) else [f"{len(asked)} of {len(every)} prompts"]
    real, more = _real(request, params, paths, {"frontal"}, asked)
    maker = Maker(synthesis, paths) if request.make is not None else None
    made = _made(request, every, asked)
    # one that has a training table, and images made of its prompts or models to make them, is paired as the board is
    by_prompt = request.train is not None and (request.privacy_images is not None or maker is not None)
    sources = _sources(request, params) if by_prompt else []
    private = _private(request, sources) if by_prompt and maker is None else []
    n = len(asked) if maker is not None else len(made)
    training = _training(request, params, paths, {"frontal"}, n)
    if maker is not None and request.make is not None:
        made = maker.make(asked, 1, request.make, progress)
        if by_prompt:
            private = maker.make(sources, PRIVACY_IMAGES, request.make / PRIVACY_FOLDER, progress)
    synthetic = _synthetic(made, asked)
    privacy = _synthetic(private, sources) if by_prompt else synthetic if len(training) else NOTHING
    return Sides(
        name=request.name
        or (f"medsynth {maker.spec[:8]}" if maker else Path(request.images or "images").resolve().stem),
        synthetic=synthetic,
        real=real,
        training=training,
        privacy=privacy,
        sources=_films(sources) if by_prompt else training,
        paired_by=BY_PROMPT if by_prompt else NEAREST,
        caption=PROMPT,
        doubts=(*doubts, *more),
        left_out=_left_out(training, synthetic),
    )


def _left_out(training: Pictures, synthetic: Pictures) -> tuple[str, ...]:
    """Returns what can't be measured of these sides."""
    lacks = [] if len(training) else ["re-identification: no training images (--train)"]
    if not any(synthetic.labels):
        lacks.append(f"tables by pathology: no prompt has labels (column {LABELS!r})")
    return tuple(lacks)


def _made(request: Request, every: Sequence[Annotation], asked: Sequence[Annotation]) -> list[Made]:
    """Returns the images that are there of the prompts that are asked for; none where they are yet to be made."""
    if request.images is None:
        return []
    made = read_made(request.images, request.image_dir, every)
    wanted = {annotation.prompt for annotation in asked}
    made = [each for each in made if each.prompt in wanted]
    check_complete(made, asked, str(request.images))
    for each in made:
        check_file(each.image, each.where)
    return made


def _sources(request: Request, params: EvaluationParams) -> list[Annotation]:
    """Returns the training rows whose prompts are asked for, in whose images their patients are looked for."""
    assert request.train is not None
    rows = read_annotations(request.train, request.train_dir, needs_film=True)
    chosen = _some(rows, request.privacy_prompts, params.seed, "chexgenbench.privacy_prompts")
    for row in chosen:
        check_file(_film(row), f"{request.train}: row {row.row}")
    return chosen


def _private(request: Request, sources: Sequence[Annotation]) -> list[Made]:
    assert request.privacy_images is not None
    made = read_made(request.privacy_images, None, ())
    wanted = {row.prompt for row in sources}
    kept = [each for each in made if each.prompt in wanted]
    check_complete(kept, sources, str(request.privacy_images))
    for each in kept:
        check_file(each.image, each.where)
    return kept


def _real(
    request: Request,
    params: EvaluationParams,
    paths: Paths,
    views: set[str],
    asked: Sequence[Annotation] = (),
) -> tuple[Pictures, list[str]]:
    """Returns the real images that are compared with, and why they aren't the board's."""
    table = request.real or (request.prompts if request.prompts and PATH in header(request.prompts) else None)
    if table is None:
        held_out = _of_corpus(paths, _HELD_OUT, views, params.evaluation.max_images, params.seed)
        if not len(held_out):
            raise InputError(f"{paths['corpus']}: no held-out images; name real ones by --real")
        return held_out, ["the real images are the workspace's held-out ones"]
    rows = read_annotations(table, request.real_dir, needs_film=True)
    if table == request.prompts:
        wanted = {annotation.prompt for annotation in asked}
        rows = [row for row in rows if row.prompt in wanted]
    for row in rows:
        check_file(_film(row), f"{table}: row {row.row} (--real-dir names the folder)")
    return _films(rows), []


def _training(request: Request, params: EvaluationParams, paths: Paths, views: set[str], n: int) -> Pictures:
    """Returns training images for controls and for the nearest: of ``--train``, else of the workspace where its models
    made the images; as many as there are synthetic ones or more, where there are so many."""
    most = max(params.evaluation.max_images, n)
    if request.train is not None:
        rows = read_annotations(request.train, request.train_dir, needs_film=True)
        chosen = _some(rows, most, params.seed, "chexgenbench.training")
        for row in chosen:
            check_file(_film(row), f"{request.train}: row {row.row}")
        return _films(chosen)
    if request.images is not None or not paths["corpus"].exists():
        return NOTHING
    return _of_corpus(paths, "train", views, most, params.seed)


def _released(release: Release, most: int, seed: int) -> Pictures:
    rows = release.manifest(["image_id", "prompt", "labels", "shard", "offset", "size"]).to_pylist()
    if not rows:
        raise InputError(f"{release.where}: the release has no images")
    rows = [rows[place] for place in _chosen(len(rows), most, seed, "chexgenbench.images")]

    def open_image(place: int) -> Image.Image:
        return release.image(*(rows[place][key] for key in ("shard", "offset", "size")))

    return Pictures(
        [row["image_id"] for row in rows],
        [row["prompt"] for row in rows],
        [pathologies_of(row["labels"]) for row in rows],
        open_image,
    )


def _of_corpus(paths: Paths, split: str, views: set[str], most: int, seed: int) -> Pictures:
    """Returns images of a split of the workspace's corpus in these views, with what mining saw in their reports."""
    if not len(Corpus.open(paths["corpus"]).views(split)):
        return NOTHING
    pairs = read_pairs(paths, split)
    fitting = [place for place, condition in enumerate(pairs.conditions) if condition.view in views]
    chosen = [fitting[place] for place in _chosen(len(fitting), most, seed, f"chexgenbench.{split}")]
    rows = pairs.rows[chosen]
    return Pictures(
        [f"corpus row {row}" for row in rows.tolist()],
        [pairs.texts[place] for place in chosen],
        [pathologies_of(pairs.conditions[place].findings) for place in chosen],
        lambda place: Image.fromarray(pairs.corpus.images(rows[place : place + 1])[0]),
    )


def _synthetic(made: Sequence[Made], annotations: Sequence[Annotation]) -> Pictures:
    """Returns synthetic images with the labels of their prompts' rows."""
    labels = {annotation.prompt: annotation.labels for annotation in annotations}
    prompts = [each.prompt for each in made]
    return of_files([each.image for each in made], prompts, [labels[prompt] for prompt in prompts])


def _films(rows: Sequence[Annotation]) -> Pictures:
    return of_files([_film(row) for row in rows], [row.prompt for row in rows], [row.labels for row in rows])


def _film(row: Annotation) -> Path:
    assert row.film is not None, "read_annotations(needs_film=True) saw to it"
    return row.film


def _some(rows: list[Annotation], most: int | None, seed: int, name: str) -> list[Annotation]:
    """Returns so many rows, in their order, all when None."""
    return rows if most is None else [rows[place] for place in sorted(_chosen(len(rows), most, seed, name).tolist())]


def _chosen(n: int, most: int, seed: int, name: str) -> Places:
    chosen: Places = np.asarray(stream(seed, name).permutation(n)[:most], dtype=np.int64)
    return chosen
