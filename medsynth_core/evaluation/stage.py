"""The evaluation stage: a release against real images that no model learnt from."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medsynth_core.chance import rounded
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.embedding import draw_map, embed, map_table
from medsynth_core.evaluation.extractors import load_extractor
from medsynth_core.evaluation.figures import (
    Features,
    Figure,
    feature_figures,
    naturalness_figure,
    similarity_figure,
)
from medsynth_core.evaluation.image_sets import NO_FINDING, ImageSet, real_images, synthetic_images
from medsynth_core.evaluation.judged import Judged, judged_figures
from medsynth_core.evaluation.judges import load_judge
from medsynth_core.evaluation.settings import EvaluationParams
from medsynth_core.models.artifact import pick_device
from medsynth_core.models.naturalness import N_FEATURES, NaturalnessModel
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.vocabulary.labels import anatomy_labels, is_anatomy, pathology_labels

MAP = "map.png"
_FIGURES = "metrics.json"
_SPLIT = "test"
_NATURALNESS_IMAGES = 500
"""Training images that the NIQE model is fitted on at most."""
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class EvaluationReport:
    """Images that were compared, and the figures of all of them by extractor; ``_real`` is what real images get."""

    n_synthetic: int
    n_training: int
    n_held_out: int
    figures: dict[str, Any]


@dataclass(frozen=True)
class _Sides:
    synthetic: ImageSet
    training: ImageSet
    held_out: ImageSet

    def all(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        return self.synthetic, self.training, self.held_out

    @property
    def labels(self) -> list[str | None]:
        """None for all images, then the prompted pathologies by name, then no finding."""
        names = {name for shown in self.synthetic.pathologies for name in shown}
        return [None, *sorted(names - {NO_FINDING}), *sorted(names & {NO_FINDING})]


def run(params: EvaluationParams, paths: Paths, progress: Progress) -> EvaluationReport:
    """Reads the workspace's release and corpus and writes what was found.

    Raises:
        InputError: there is no release, or an extractor can't be loaded.
    """
    release = open_release(paths.root)
    sides = _read_sides(release, params, paths)
    figures, places = _of_features(params, paths, sides, progress)
    figures += _of_judges(params, paths, sides, progress)
    figures += _of_pixels(params, sides, progress)
    rows = [rounded(asdict(figure)) for figure in figures]
    report = EvaluationReport(len(sides.synthetic), len(sides.training), len(sides.held_out), _flat(rows))
    _write_folder(paths["evaluation"], release.name, params.evaluation.extractors[0], report, rows, places)
    _write_metrics(paths.metrics, report, places)
    return report


def _read_sides(release: Release, params: EvaluationParams, paths: Paths) -> _Sides:
    """Returns the images that are compared, those of a view that the release has."""
    views, most, seed = set(release.manifest(["view"])["view"].to_pylist()), params.evaluation.max_images, params.seed
    return _Sides(
        synthetic_images(release, most, seed),
        real_images(paths, "train", views, most, seed),
        real_images(paths, _SPLIT, views, most, seed),
    )


def _of_features(
    params: EvaluationParams, paths: Paths, sides: _Sides, progress: Progress
) -> tuple[list[Figure], dict[str, Floats]]:
    """Returns what each extractor says of all images and of each pathology, and the first one's map."""
    settings, seed = params.evaluation, params.seed
    comparable = min(map(len, sides.all())) >= settings.min_images
    figures: list[Figure] = []
    places: dict[str, Floats] = {}
    for name in settings.extractors:
        features = _features(name, params, paths, sides, comparable, progress)
        for label in sides.labels:
            of_label = [side.places(label) for side in sides.all()]
            figures += feature_figures(features, label, of_label, settings, seed)
        if comparable and not places:
            progress(0, 1, "t-SNE")
            n = min(len(sides.held_out), len(sides.synthetic), settings.map_images)
            places = embed(features.held_out[:n], features.synthetic[:n], seed)
    return figures, places


def _write_folder(
    folder: Path,
    release: str,
    extractor: str,
    report: EvaluationReport,
    rows: Sequence[dict[str, Any]],
    places: dict[str, Floats],
) -> None:
    """Writes all figures, as JSON and as a table, and the map of ``extractor`` if there is one."""
    with replace_directory(folder) as fresh:
        about = {**asdict(report), "release": release, "split": _SPLIT, "figures": rows}
        (fresh / _FIGURES).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        _write_table(rows, fresh / "figures.csv")
        if places:
            draw_map(places, f"t-SNE of {extractor} features", fresh / MAP)


def _write_metrics(folder: Path, report: EvaluationReport, places: dict[str, Floats]) -> None:
    """Writes what ``dvc metrics`` and ``dvc plots`` show."""
    folder.mkdir(exist_ok=True)
    flat = {name: value for name, value in asdict(report).items() if name != "figures"} | report.figures
    (folder / "evaluation.json").write_text(json.dumps(flat, indent=2) + "\n", "utf-8")
    (folder / "evaluation.csv").write_text(map_table(places), "utf-8")


def read_evaluation(folder: Path, release: str) -> dict[str, Any]:
    """Returns what the stage found: numbers of images, and ``figures`` as rows with the fields of ``Figure``.

    Raises:
        InputError: there is none, or it is of another release than this name.
    """
    try:
        about: dict[str, Any] = json.loads((folder / _FIGURES).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no evaluation there; run `medsynth evaluate` first") from error
    if about["release"] != release:
        raise InputError(f"{folder}: of {about['release']}, not of {release}; run `medsynth evaluate` again")
    return about


def _features(
    name: str, params: EvaluationParams, paths: Paths, sides: _Sides, comparable: bool, progress: Progress
) -> Features:
    """Returns the features of all sides; of no width where no figure will come of them."""
    if not comparable:
        return Features(name, *(np.empty((len(side), 0), dtype=np.float32) for side in sides.all()))
    net = load_extractor(name, paths).to(pick_device(params.device))
    return Features(name, *_encoded(net, sides.all(), params, progress, name))


@torch.inference_mode()
def _encoded(
    net: nn.Module, sides: Sequence[ImageSet], params: EvaluationParams, progress: Progress, name: str
) -> list[Floats]:
    """Returns what a network makes of every image of each side, float32 [N, F]."""
    device = pick_device(params.device)
    total, done = sum(map(len, sides)), 0
    of_side = []
    for side in sides:
        parts: list[Floats] = []
        for images in side.batches(params.evaluation.batch_size):
            parts.append(net(torch.from_numpy(images).to(device)).float().cpu().numpy())
            done += len(images)
            progress(done, total, name)
        of_side.append(np.concatenate(parts))
    return of_side


def _of_judges(params: EvaluationParams, paths: Paths, sides: _Sides, progress: Progress) -> list[Figure]:
    """Returns what each judge finds of the prompted pathologies, and of the places in which they lie."""
    both = (sides.synthetic, sides.held_out)
    if min(map(len, both)) < params.evaluation.min_images:
        return []
    prompted = {label for each in both[0].findings for label in pathology_labels(each) | anatomy_labels(each)}
    figures: list[Figure] = []
    for name in params.evaluation.judges:
        judge = load_judge(name, paths).to(pick_device(params.device))
        found = _encoded(judge, both, params, progress, name)
        for what, wanted in (("pathologies", False), ("anatomies", True)):
            terms = sorted({term for term, _ in prompted if is_anatomy(term) == wanted})
            if not terms or (wanted and not any(map(is_anatomy, judge.terms))):
                continue
            judged = [Judged.of(side, terms, margins, judge.terms) for side, margins in zip(both, found, strict=True)]
            figures += judged_figures(f"{name} on {what}", terms, judged[0], judged[1], params.seed)
    return figures


def _of_pixels(params: EvaluationParams, sides: _Sides, progress: Progress) -> list[Figure]:
    """Returns NIQE and MS-SSIM of all images and of each pathology."""
    ours, theirs = _naturalness(params, sides, progress)
    figures = []
    for label in sides.labels:
        scores = ours[sides.synthetic.places(label)], theirs[sides.held_out.places(label)]
        figures.append(naturalness_figure(*scores, label, params.evaluation))
        figures.append(similarity_figure(sides.synthetic, sides.held_out, label, params.evaluation, params.seed))
    return figures


def _naturalness(params: EvaluationParams, sides: _Sides, progress: Progress) -> list[Floats]:
    """Returns NIQE of the synthetic and of the held-out images by a model of training images; NaN when those are too
    few to fit one."""
    fitted = np.arange(min(len(sides.training), _NATURALNESS_IMAGES))
    judged = (sides.synthetic, sides.held_out)
    if len(fitted) <= N_FEATURES:
        return [np.full(len(side), np.nan) for side in judged]
    model = NaturalnessModel.fit(sides.training.read(fitted))
    scores = []
    for side in judged:
        parts: list[Floats] = [np.empty(0)]
        for images in side.batches(params.evaluation.batch_size):
            parts.append(model.scores(images))
            progress(sum(map(len, parts)), len(side), "NIQE")
        scores.append(np.concatenate(parts))
    return scores


def _flat(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of all images, with those of real ones, by extractor and metric."""
    flat: dict[str, Any] = {}
    for row in rows:
        if row["label"] is None and row["value"] is not None:
            of_extractor = flat.setdefault(row["extractor"] or "pixels", {})
            of_extractor |= {row["metric"]: row["value"], f"{row['metric']}_real": row["real"]}
    return flat


def _write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.DictWriter(sink, [field.name for field in fields(Figure)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
