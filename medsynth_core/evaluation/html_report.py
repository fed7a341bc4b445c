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


def write_html(
    release: Release,
    gallery: Sequence[tuple[Mapping[str, Any], bytes]],
    oracle: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Writes the page.

    Args:
        gallery: manifest rows with their PNG bytes.
        oracle: rows of the phantom oracle's table; empty for a real corpus.
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
            most=max(release.info["pathologies"].values(), default=1),
        )
    )
    path.write_text(page, "utf-8")
