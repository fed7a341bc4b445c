"""The HTML report of a release: one file, no network, light and dark, readable on a phone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment

from medsynth_core.release.reader import Release

_REJECTED_ROWS = 100
_ALL = "all images"


def write_html(
    release: Release,
    gallery: Sequence[tuple[Mapping[str, Any], bytes]],
    oracle: Sequence[Mapping[str, Any]],
    path: Path,
    evaluation: Mapping[str, Any] | None = None,
    scatter: bytes | None = None,
) -> None:
    """Writes the page.

    Args:
        gallery: manifest rows with their PNG bytes.
        oracle: rows of the phantom oracle's table; empty for a real corpus.
        evaluation: what the evaluation stage found; None leaves its section out.
        scatter: PNG of its map, if there is one.
    """
    template = resources.files("medsynth_core.evaluation").joinpath("report.html.j2").read_text("utf-8")
    rejected = release.rejected(["prompt", "reasons"])
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            name=release.name,
            about=release.info,
            gallery=[{**row, "png": base64.b64encode(png).decode()} for row, png in gallery],
            rejected=rejected.slice(0, _REJECTED_ROWS).to_pylist(),
            n_rejected=len(rejected),
            oracle=oracle,
            evaluation=evaluation,
            groups=_groups(evaluation["figures"]) if evaluation else [],
            scatter=base64.b64encode(scatter).decode() if scatter else None,
            most=max(release.info["pathologies"].values(), default=1),
        )
    )
    path.write_text(page, "utf-8")


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str | None, list[str], dict[str, dict[str, Any]]]]:
    """Returns for each extractor its metrics, and rows by label (all images first) and metric."""
    groups: dict[str | None, dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["extractor"], {}).setdefault(row["label"] or _ALL, {})[row["metric"]] = row
    return [(extractor, list(labels[_ALL]), labels) for extractor, labels in groups.items()]
