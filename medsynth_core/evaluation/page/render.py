"""The HTML page of a release: one file, no network, light and dark, readable on a phone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from medsynth_core.evaluation.contact_sheet import key_caption
from medsynth_core.evaluation.page import figures, provenance
from medsynth_core.evaluation.page.earlier import Earlier
from medsynth_core.evaluation.page.gallery import GalleryImage, page_png
from medsynth_core.evaluation.page.histogram import HEIGHT, WIDTH, histograms
from medsynth_core.evaluation.page.rejected import RejectedImage
from medsynth_core.evaluation.page.scores import (
    FEATURED,
    bound_of,
    deciding_score,
    featured_scores,
    has_score,
    reason_in_words,
    score_lines,
)
from medsynth_core.evaluation.page.spectrum import spectrum
from medsynth_core.release.facts import is_phantom
from medsynth_core.release.looks import looks
from medsynth_core.release.reader import Release

KEYPATCHES = 8
"""The best ones, which are drawn over an image."""
_MOST_BYTES = 4_000_000
"""Of the gallery's PNGs; what comes after is left out."""
_KINDS = {"pathologies": "findings", "sides": "sides", "severities": "severities", "views": "views"}


@dataclass(frozen=True)
class PageContent:
    """What a page shows.

    Attributes:
        grid_side: latent cells along one side of an image, on which keypatches lie.
        neighbours: why training images are shown beside the gallery's, or aren't.
        oracle: rows of the phantom oracle's table; empty for a real corpus.
        evaluation: what the evaluation stage found.
        utility: what the utility stage measured; None where it wasn't asked for.
        scatter: PNG of the t-SNE map, if there is one.
    """

    release: Release
    gallery: Sequence[GalleryImage]
    rejected: Sequence[RejectedImage]
    grid_side: int
    neighbours: str
    oracle: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    earlier: Sequence[Earlier] = ()
    utility: Mapping[str, Any] | None = None
    scatter: bytes | None = None


def write_page(content: PageContent, path: Path) -> None:
    """Writes the page."""
    about, evaluation = content.release.info, content.evaluation
    privacy, fidelity = (about.get(stage) or {} for stage in ("privacy", "fidelity"))
    rows = evaluation["figures"] if evaluation else []
    shown = _gallery(content)
    environment = Environment(
        autoescape=True, loader=PackageLoader("medsynth_core.evaluation.page"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    page = environment.get_template("report.html.j2").render(
        name=content.release.name,
        about=about,
        phantom=is_phantom(about),
        accounting=_accounting(about, content.earlier),
        distributions=[(title, _bars(about[kind])) for kind, title in _KINDS.items() if about.get(kind)],
        gallery=shown,
        grid_side=content.grid_side,
        choices=_choices(shown),
        featured=FEATURED,
        neighbours=content.neighbours,
        rejected=[_rejected(each, about) for each in content.rejected],
        reasons=[(name, reason_in_words(name), n) for name, n in about["counts"]["rejected"].items()],
        oracle=content.oracle,
        oracle_before=_oracle_before(content.earlier),
        earlier=content.earlier,
        other_models=[each.tag for each in content.earlier if _has_other_models(each, about)],
        evaluation=evaluation,
        compared=figures.compared(rows, content.earlier),
        by_label=list(figures.by_label(rows)),
        scatter=_url(content.scatter) if content.scatter else None,
        looks=looks(about),
        fidelity_lines=figures.fidelity_lines(fidelity.get("figures", ()), content.earlier),
        spectrum=spectrum(fidelity.get("spectra", {})),
        privacy_lines=figures.privacy_lines(privacy.get("figures", ()), content.earlier),
        histograms=histograms(privacy.get("histograms", {}), figures.SPACES),
        histogram_box=(WIDTH, HEIGHT),
        utility=content.utility,
        corpus_line=provenance.corpus_line(about),
        sampling=provenance.sampling_lines(about),
        filters=provenance.filter_lines(about),
    )
    path.write_text(page, "utf-8")


def _accounting(about: Mapping[str, Any], earlier: Sequence[Earlier]) -> list[dict[str, Any]]:
    """Returns the lines of the accounting: kind, reason, number, share, and the share in each earlier release."""
    ours = about["counts"]
    theirs = [each.entry.counts.model_dump(mode="json") for each in earlier]
    lines = [{"kind": "requested", "reason": "", "n": ours["requested"]}]
    lines.append({"kind": "accepted", "reason": "", "n": ours["accepted"]})
    for kind in ("rejected", "failed"):
        reasons = dict.fromkeys(reason for counts in (ours, *theirs) for reason in counts[kind])
        lines += [{"kind": kind, "reason": reason, "n": ours[kind].get(reason, 0)} for reason in reasons]

    def share(counts: Mapping[str, Any], line: Mapping[str, Any]) -> str:
        n = counts[line["kind"]].get(line["reason"], 0) if line["reason"] else counts[line["kind"]]
        return f"{100 * n / counts['requested']:.1f} %"

    return [
        {**line, "words": reason_in_words(line["reason"]), "share": share(ours, line)}
        | {"earlier": [share(counts, line) for counts in theirs]}
        for line in lines
    ]


def _bars(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Returns name, number and share of the largest in percent, the largest first."""
    most = max(counts.values(), default=1)
    return [(name, n, round(100 * n / most, 1)) for name, n in sorted(counts.items(), key=lambda each: -each[1])]


def _gallery(content: PageContent) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    n_bytes = 0
    for image in content.gallery:
        png = page_png(image.image_u8)
        beside = page_png(image.neighbour.image_u8) if image.neighbour else b""
        n_bytes += len(png) + len(beside)
        if n_bytes > _MOST_BYTES and shown:
            break
        row, neighbour = image.row, image.neighbour
        labels = _labels(row)
        words = (row.get("keypatch_words") or [])[:KEYPATCHES]
        shown.append(
            {
                "row": row,
                "src": _url(png),
                "labels": [_in_words(label) for label in labels],
                "data": json.dumps(labels),
                "findings": labels,
                "featured": featured_scores(row),
                "scores": score_lines(row),
                "keys": _keys(image.cells[:KEYPATCHES], words, content.grid_side),
                "caption": key_caption(words),
                "neighbour": {"src": _url(beside), "distance": f"{neighbour.distance:.3f}"} if neighbour else None,
            }
        )
    return shown


def _labels(row: Mapping[str, Any]) -> list[list[str]]:
    """Returns pathology, side and severity of each prompted finding, empty where it has none."""
    labels = [
        [label["pathology"], *("" if label[key] in {None, "none"} else label[key] for key in ("side", "severity"))]
        for label in row.get("labels") or ()
    ]
    return labels or [[pathology, "", ""] for pathology in row.get("pathology") or ["no finding"]]


def _in_words(label: Sequence[str]) -> str:
    pathology, side, severity = label
    return " ".join(word for word in (severity, side, pathology) if word)


def _keys(cells: Sequence[int], words: Sequence[str], side: int) -> list[dict[str, Any]]:
    """Returns the cells with column, row, the ranks that fell on them and the words that chose those."""
    at: dict[int, list[tuple[int, str]]] = {}
    for rank, (cell, word) in enumerate(zip(cells, words, strict=False), 1):
        at.setdefault(cell, []).append((rank, word))
    return [
        {
            "x": cell % side,
            "y": cell // side,
            "ranks": " ".join(str(rank) for rank, _ in chosen),
            "words": ", ".join(dict.fromkeys(word for _, word in chosen)),
        }
        for cell, chosen in at.items()
    ]


def _choices(shown: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns what the gallery can be filtered by: finding, side and severity, with the values that occur."""
    labels = [label for each in shown for label in each["findings"]]
    found = [
        (name, sorted({label[place] for label in labels if label[place]}))
        for place, name in enumerate(("finding", "side", "severity"))
    ]
    views = sorted({each["row"]["view"] for each in shown if each["row"].get("view")})
    return [*found, ("view", views if len(views) > 1 else [])]


def _rejected(each: RejectedImage, about: Mapping[str, Any]) -> dict[str, Any]:
    score = deciding_score(each.reason)
    line = None
    if score and has_score(each.row, score.name):
        bound = bound_of(score, about)
        line = f"{score.title} {each.row[score.name]:.{score.digits}f}"
        line += "" if bound is None else f", bound {bound:.{score.digits}f}"
    return {
        "reason": each.reason,
        "words": reason_in_words(each.reason),
        "labels": [_in_words(label) for label in _labels(each.row)],
        "prompt": each.row["prompt"],
        "score": line,
        "src": None if each.thumbnail_u8 is None else _url(page_png(each.thumbnail_u8)),
    }


def _oracle_before(earlier: Sequence[Earlier]) -> dict[str, list[float | None]]:
    """Returns the balanced accuracy in each earlier release by pathology."""
    rows = [
        {row["pathology"]: row["balanced_accuracy"] for row in (e.metrics or {}).get("oracle", ())} for e in earlier
    ]
    return {name: [of.get(name) for of in rows] for name in {name for of in rows for name in of}}


def _has_other_models(earlier: Earlier, about: Mapping[str, Any]) -> bool:
    return earlier.metrics is not None and earlier.metrics.get("model_digests") != about["model_digests"]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
