"""The report stage: contact sheet, HTML page, and on the phantom the oracle's table."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medsynth_core.config import Config, Paths
from medsynth_core.evaluation.contact_sheet import SheetItem, contact_sheet
from medsynth_core.evaluation.held_out import MAP, read_evaluation
from medsynth_core.evaluation.html_report import write_html
from medsynth_core.models.artifact import models_folder
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.atomic import replace_directory

STAGE_VERSION = 2
_SHEET_IMAGES = 16
_GALLERY_IMAGES = 48
_ORACLE_IMAGES = 2000


@dataclass(frozen=True)
class EvaluationReport:
    """Where the pages are, and the oracle's means (None unless the corpus is the phantom).

    Attributes:
        balanced_accuracy: mean over pathologies of prompted-found and unprompted-not-found.
        side_correct: share of the findings that were found on the side of their prompt.
    """

    n_images: int
    balanced_accuracy: float | None
    side_correct: float | None


def run(config: Config, paths: Paths, progress: Progress) -> EvaluationReport:
    """Reads the workspace's release and writes ``paths.report``.

    Raises:
        InputError: there is no release, or no evaluation of it.
    """
    release = open_release(paths.root)
    evaluation = read_evaluation(paths.evaluation, release.name)
    table = release.manifest()
    codebook = VisualCodebook.load(models_folder(config, paths) / "alignment" / "codebook")
    side = config.latent_side
    rows = _spread(table, _GALLERY_IMAGES)
    images = [np.array(release.image(row["shard"], row["offset"], row["size"])) for row in rows]
    oracle = _oracle(config, release, table, progress) if config.corpus.kind == "phantom" else []
    with replace_directory(paths.report) as folder:
        items = [
            SheetItem(
                image,
                row["prompt"],
                [int(codebook.cells_E[entry]) for entry in row["keypatch_ids"]],
                row["keypatch_words"],
                side,
                row["verdict"],
            )
            for row, image in zip(rows[:_SHEET_IMAGES], images[:_SHEET_IMAGES], strict=True)
        ]
        contact_sheet(items, f"{release.name}: synthetic images, not for diagnosis", folder / "contact_sheet.png")
        gallery = list(zip(rows, map(_png, images), strict=True))
        scatter = paths.evaluation / MAP
        write_html(
            release,
            gallery,
            oracle,
            folder / "report.html",
            evaluation,
            scatter.read_bytes() if scatter.is_file() else None,
        )
        (folder / "oracle.json").write_text(json.dumps(oracle, indent=2) + "\n", "utf-8")
    sided = [row for row in oracle if row["n_sided"]]
    report = EvaluationReport(
        len(table),
        _mean([row["balanced_accuracy"] for row in oracle if row["balanced_accuracy"] is not None]),
        _mean([row["side_correct"] for row in sided], [row["n_sided"] for row in sided]),
    )
    paths.metrics.mkdir(exist_ok=True)
    figures = {key: value for key, value in dataclasses.asdict(report).items() if value is not None}
    (paths.metrics / "report.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return report


def _spread(table: pa.Table, n: int) -> list[dict[str, Any]]:
    """Returns up to ``n`` rows, one a prompt as long as there are prompts, in turn over the pathologies."""
    seen: dict[str, int] = {}
    ranked = []
    for index, (prompt, pathology) in enumerate(
        zip(table["prompt_id"].to_pylist(), table["pathology"].to_pylist(), strict=True)
    ):
        of_prompt = seen.get(prompt, 0)
        seen[prompt] = of_prompt + 1
        group = "|".join(pathology)
        of_group = seen.get(f"group {of_prompt} {group}", 0)
        seen[f"group {of_prompt} {group}"] = of_group + 1
        ranked.append((of_prompt, of_group, group, index))
    chosen = [index for *_, index in sorted(ranked)[:n]]
    rows: list[dict[str, Any]] = table.take(chosen).to_pylist()
    return rows


def _oracle(config: Config, release: Release, table: pa.Table, progress: Progress) -> list[dict[str, Any]]:
    """Returns the oracle's table over all made images, the rejected ones excluded."""
    from medsynth_core.evaluation.oracle import Oracle, found_table

    oracle = Oracle.fit(config.seed, progress=progress)
    rows = table.slice(0, _ORACLE_IMAGES).select(["shard", "offset", "size", "labels"]).to_pylist()
    images = np.stack([np.array(release.image(row["shard"], row["offset"], row["size"])) for row in rows])
    requested = [[(label["pathology"], label["side"]) for label in row["labels"]] for row in rows]
    return [
        {**dataclasses.asdict(row), "balanced_accuracy": row.balanced_accuracy}
        for row in found_table(oracle, images, requested)
    ]


def _mean(values: list[float], weights: list[int] | None = None) -> float | None:
    return round(float(np.average(values, weights=weights)), 4) if values else None


def _png(image: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, format="PNG")
    return sink.getvalue()
