"""The report stage: contact sheet, HTML page, and on the phantom the oracle's table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsynth_core.config import Paths
from medsynth_core.evaluation.contact_sheet import SheetItem, contact_sheet
from medsynth_core.evaluation.page.earlier import earlier_releases
from medsynth_core.evaluation.page.gallery import GalleryImage, gallery_rows, read_images
from medsynth_core.evaluation.page.neighbours import is_of_drawings, nearest_training_images
from medsynth_core.evaluation.page.rejected import rejected_images
from medsynth_core.evaluation.page.render import PageContent, write_page
from medsynth_core.evaluation.settings import ReportParams
from medsynth_core.evaluation.stage import MAP, read_evaluation
from medsynth_core.evaluation.utility import read_utility
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.reports import METRICS, PAGE
from medsynth_core.storage.store import ObjectStore

_SHEET_IMAGES = 16
_REJECTED_OF_EACH = 12
_ORACLE_IMAGES = 2000
_OWN_EYES = "report-with-training-images.html"
"""Never leaves the workspace: the page that goes into the store shows no patient."""
_KINDS = {"pathologies": "finding", "sides": "side", "severities": "severity", "views": "view"}


@dataclass(frozen=True)
class PageReport:
    """What the page shows in one figure each; the oracle's means are None unless the corpus is the phantom.

    Attributes:
        accepted_share: accepted images over requested ones.
        balanced_accuracy: mean over pathologies of prompted-found and unprompted-not-found.
        side_correct: share of the findings that were found on the side of their prompt.
    """

    n_images: int
    accepted_share: float
    balanced_accuracy: float | None
    side_correct: float | None


def run(params: ReportParams, paths: Paths, store: ObjectStore, progress: Progress) -> PageReport:
    """Reads the workspace's release, and what the store's earlier ones measured, and writes the page.

    Raises:
        InputError: there is no release, or no evaluation of it.
        CorruptObjectError: the record of an earlier release can't be read.
    """
    release = open_release(paths.root)
    evaluation = read_evaluation(paths["evaluation"], release.name)
    phantoms = params.report.oracle_phantoms if is_of_drawings(paths) else 0
    oracle = _oracle(params.seed, phantoms, release, progress) if phantoms else []
    utility = read_utility(paths["utility"], release.name)
    codebook = VisualCodebook.load(paths["alignment"] / "codebook")
    gallery, side = _gallery(params.report.gallery_images, paths, codebook, release), math.isqrt(len(codebook.usual_CD))
    scatter = paths["evaluation"] / MAP
    content = PageContent(
        release,
        gallery,
        rejected_images(release, _REJECTED_OF_EACH),
        side,
        _not_shown(release),
        oracle,
        evaluation,
        earlier_releases(store, release),
        utility,
        scatter.read_bytes() if scatter.is_file() else None,
    )
    with replace_directory(paths["report"]) as folder:
        sheet = [_sheet_item(image, side) for image in gallery[:_SHEET_IMAGES]]
        contact_sheet(sheet, f"{release.name}: synthetic images, not for diagnosis", folder / "contact_sheet.png")
        if is_of_drawings(paths):
            write_page(_beside_training(content, paths), folder / PAGE)
        else:
            write_page(content, folder / PAGE)
            if params.report.training_images:
                write_page(_beside_training(content, paths), folder / _OWN_EYES)
        shown = {
            "release": release.name,
            "model_digests": release.info["model_digests"],
            "evaluation": evaluation,
            "fidelity": release.info.get("fidelity"),
            "privacy": release.info.get("privacy"),
            "utility": utility,
            "oracle": oracle,
        }
        (folder / METRICS).write_text(json.dumps(shown, indent=2) + "\n", "utf-8")
    report = _report(release, oracle)
    paths.metrics.mkdir(exist_ok=True)
    figures = {key: value for key, value in dataclasses.asdict(report).items() if value is not None}
    (paths.metrics / "report.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    (paths.metrics / "distribution.csv").write_text(_distribution(release.info), "utf-8")
    return report


def _gallery(most: int, paths: Paths, codebook: VisualCodebook, release: Release) -> list[GalleryImage]:
    """Returns the images with their keypatches' cells, where the codebook at hand is the one that they came from."""
    own, rows = model_digest(paths["alignment"], paths.digests), gallery_rows(release, most)
    return [
        GalleryImage(
            row,
            image,
            tuple(int(codebook.cells_E[entry]) for entry in row["keypatch_ids"])
            if row["alignment_sha256"] == own
            else (),
        )
        for row, image in zip(rows, read_images(release, rows), strict=True)
    ]


def _not_shown(release: Release) -> str:
    licence = release.info["corpus"]["licence"]
    return f"The training images nearest to them aren't shown: the terms of the corpus ({licence}) may not allow it."


def _beside_training(content: PageContent, paths: Paths) -> PageContent:
    """Returns the content with the nearest training image beside every image of the gallery."""
    found = nearest_training_images(paths, [image.row for image in content.gallery])
    if not any(found):
        note = "The training images nearest to them aren't known: the models or the corpus at hand are others."
    elif is_of_drawings(paths):
        note = "Beside each: the training image, a phantom, whose thumbnail is nearest."
    else:
        note = "Beside each: the training image whose thumbnail is nearest, of a patient. Don't pass this page on."
    beside = [
        dataclasses.replace(image, neighbour=neighbour) for image, neighbour in zip(content.gallery, found, strict=True)
    ]
    return dataclasses.replace(content, gallery=beside, neighbours=note)


def _sheet_item(image: GalleryImage, side: int) -> SheetItem:
    row = image.row
    return SheetItem(image.image_u8, row["prompt"], image.cells, row["keypatch_words"], side, row["verdict"])


def _oracle(seed: int, phantoms: int, release: Release, progress: Progress) -> list[dict[str, Any]]:
    """Returns the oracle's table over the accepted images, the first ones where there are many."""
    from medsynth_core.evaluation.oracle import Oracle, found_table

    oracle = Oracle.fit(seed, phantoms, progress=progress)
    rows = release.manifest(["shard", "offset", "size", "labels"]).slice(0, _ORACLE_IMAGES).to_pylist()
    requested = [[(label["pathology"], label["side"]) for label in row["labels"]] for row in rows]
    return [
        {**dataclasses.asdict(row), "balanced_accuracy": row.balanced_accuracy}
        for row in found_table(oracle, np.stack(read_images(release, rows)), requested)
    ]


def _report(release: Release, oracle: Sequence[Mapping[str, Any]]) -> PageReport:
    counts = release.info["counts"]
    sided = [row for row in oracle if row["n_sided"]]
    return PageReport(
        counts["accepted"],
        round(counts["accepted"] / counts["requested"], 4),
        _mean([row["balanced_accuracy"] for row in oracle if row["balanced_accuracy"] is not None]),
        _mean([row["side_correct"] for row in sided], [row["n_sided"] for row in sided]),
    )


def _distribution(about: Mapping[str, Any]) -> str:
    """Returns the accepted images by finding, side, severity and view as CSV, for ``dvc plots``."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("images", "label"))
    writer.writerows((n, f"{title}: {name}") for kind, title in _KINDS.items() for name, n in about[kind].items())
    return sink.getvalue()


def _mean(values: list[float], weights: list[int] | None = None) -> float | None:
    return round(float(np.average(values, weights=weights)), 4) if values else None
