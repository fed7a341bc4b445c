"""The figures of a release as rows of tables: beside those of earlier releases, and beside what real images get."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medsynth_core.evaluation.page.earlier import Earlier

Row = Mapping[str, Any]
ALL = "all images"
_NONE = "–"
SPACES = {
    "spectrum": "spectra",
    "network": "a small network",
    "texture": "textures",
    "layout": "thumbnails without their mean",
    "pixels": "thumbnails",
    "judge": "the judge's features",
    "reidentification": "a network that re-identifies patients",
    "models": "the language model itself",
    "keypatches": "windows around keypatches",
}
_COMPARED = {
    ("told_apart", "synthetic", "real"): "images told from real films, AUC",
    ("told_apart", "rendered", "real"): "films that the tokenizer rendered told from real films, AUC",
    ("told_apart", "synthetic", "rendered"): "images told from films that the tokenizer rendered, AUC",
    ("fidelity", "synthetic", "real"): "images within the range of real films",
    ("fidelity", "rendered", "real"): "films that the tokenizer rendered within the range of real films",
    ("recall", "synthetic", "real"): "real films within the range of the images (recall)",
    ("coverage", "synthetic", "real"): "real films with an image in their range (coverage)",
}
"""Titles of fidelity figures by metric, side and what it is held against."""


@dataclass(frozen=True)
class Metric:
    """How a figure is called and written.

    Attributes:
        better: ↑ or ↓; empty where it depends.
        write: returns a value in words.
    """

    title: str
    better: str
    write: Callable[[float], str]


def _digits(form: str, times: float = 1.0, unit: str = "") -> Callable[[float], str]:
    return lambda value: format(times * value, f"z{form}") + unit


_PERCENT = "\u00a0%"
_SHARE = _digits(".1f", 100, _PERCENT)
_METRICS = {
    "fid": Metric("FID", "↓", _digits(".3g")),
    "kid": Metric("KID × 1000", "↓", _digits(".2f", 1000)),
    "precision": Metric("precision", "↑", _digits(".2f")),
    "recall": Metric("recall", "↑", _digits(".2f")),
    "density": Metric("density", "↑", _digits(".2f")),
    "coverage": Metric("coverage", "↑", _digits(".2f")),
    "niqe": Metric("NIQE", "↓", _digits(".2f")),
    "ms_ssim": Metric("MS-SSIM of two images", "", _digits(".2f")),
    "auroc": Metric("AUROC of what was prompted", "↑", _digits(".3f")),
    "balanced_accuracy": Metric("balanced accuracy of what was prompted", "↑", _digits(".3f")),
    "told_apart": Metric("told apart, AUC", "↓", _digits(".3f")),
    "fidelity": Metric("within the range of real films", "↑", _SHARE),
    "near_copies": Metric("made images rejected as near-copies of training images", "↓", _SHARE),
    "distance": Metric("distance to the nearest training image, median and 95 % of the images", "", _digits(".3g")),
    "nearer_than_held_out": Metric("nearer to a training image than all but 5 % of held-out images", "↓", _SHARE),
    "authenticity": Metric("images whose nearest training image has another one nearer to it", "↑", _SHARE),
    "nearer_to_training": Metric("nearer to training images than to as many held-out ones", "↓", _SHARE),
    "membership_auc": Metric("attack: AUC of telling training images from held-out ones", "↓", _digits(".3f")),
    "membership_auc_relative": Metric("attack with other real images at hand: AUC", "↓", _digits(".3f")),
    "membership_tpr": Metric("attack: training images found at 1 % of false alarms", "↓", _SHARE),
    "membership_tpr_relative": Metric("attack with other real images at hand: found at 1 %", "↓", _SHARE),
    "verification_auc": Metric(
        "what this attacker can: films of one patient told from films of two, AUC", "", _digits(".3f")
    ),
    "copy_auc": Metric("what this attacker can: a film, turned and moved, told from others, AUC", "", _digits(".3f")),
    "likelihood_auc": Metric("attack with the models at hand: AUC of telling training images", "↓", _digits(".3f")),
    "likelihood_auc_relative": Metric("attack with the models, by what the conditions tell: AUC", "↓", _digits(".3f")),
    "likelihood_tpr": Metric("attack with the models: training images found at 1 % of false alarms", "↓", _SHARE),
    "likelihood_tpr_relative": Metric("attack with the models, by what the conditions tell: found at 1 %", "↓", _SHARE),
    "keypatch_leakage": Metric("keypatches whose surroundings are repeated", "↓", _SHARE),
}


def metric_of(name: str) -> Metric:
    """Returns how a figure is written; one that isn't known here goes by its own name."""
    return _METRICS.get(name) or Metric(name.replace("_", " "), "", _digits(".3g"))


@dataclass(frozen=True)
class Cell:
    """A figure in words, and its interval or range, if it has one."""

    value: str
    between: str | None = None


@dataclass(frozen=True)
class FigureLine:
    """One line of a table of figures.

    Attributes:
        of: network of the features, or the space of a privacy figure.
        reason: why there is no figure; None where there is one.
        earlier: of each earlier release.
        limit: above which a privacy figure forbids to publish, or below which a fidelity does.
    """

    title: str
    better: str
    of: str
    reason: str | None
    ours: Cell
    earlier: tuple[Cell, ...]
    real: Cell
    n: int | None = None
    limit: str | None = None


@dataclass(frozen=True)
class LabelTable:
    """The figures of one network by finding, all images first.

    Attributes:
        metrics: titles of the columns.
        lines: label, synthetic images, held-out images, and for each metric ours and real's.
    """

    of: str
    metrics: tuple[str, ...]
    lines: tuple[tuple[str, Any, Any, tuple[tuple[str, str], ...]], ...]


def compared(rows: Sequence[Row], earlier: Sequence[Earlier]) -> list[FigureLine]:
    """Returns the figures of all images."""
    before = [_by_name((each.metrics or {}).get("evaluation", {}).get("figures", ()), "extractor") for each in earlier]
    return [
        _line(row, row.get("extractor") or "pixels", [of.get(_name(row, "extractor"), {}) for of in before])
        for row in rows
        if row.get("label") is None
    ]


def privacy_lines(rows: Sequence[Row], earlier: Sequence[Earlier]) -> list[FigureLine]:
    """Returns the privacy figures."""
    return _of_stage("privacy", rows, earlier, "space")


def fidelity_lines(rows: Sequence[Row], earlier: Sequence[Earlier]) -> list[FigureLine]:
    """Returns how real the images look, each figure called by what is compared."""
    lines = _of_stage("fidelity", rows, earlier, "space", "side", "against")
    titles = [_COMPARED.get(_name(row, "side", "against")) for row in rows]
    return [replace(line, title=title) if title else line for line, title in zip(lines, titles, strict=True)]


def _of_stage(stage: str, rows: Sequence[Row], earlier: Sequence[Earlier], *kinds: str) -> list[FigureLine]:
    """Returns the figures that a stage before the release measured, beside those of the same metric and ``kinds``."""
    before = [_by_name(((each.metrics or {}).get(stage) or {}).get("figures", ()), *kinds) for each in earlier]
    return [
        _line(row, space_in_words(row.get("space")), [of.get(_name(row, *kinds), {}) for of in before]) for row in rows
    ]


def space_in_words(space: str | None) -> str:
    """Returns where a privacy or fidelity figure was taken."""
    return SPACES.get(space or "", space or "")


def by_label(rows: Sequence[Row]) -> Iterator[LabelTable]:
    """Yields a table for every network whose figures were also taken by finding."""
    groups: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        group = groups.setdefault(row.get("extractor") or "pixels", {})
        group.setdefault(row.get("label") or ALL, {})[row["metric"]] = row
    for of, labels in groups.items():
        if set(labels) == {ALL}:
            continue
        metrics = list(dict.fromkeys(metric for of_label in labels.values() for metric in of_label))
        order = sorted(labels, key=lambda label: label != ALL)
        lines = []
        for label in order:
            first = next(iter(labels[label].values()))
            pairs = tuple(_pair(metric, labels[label].get(metric)) for metric in metrics)
            lines.append((label, first.get("n"), first.get("n_held_out"), pairs))
        titles = tuple(f"{metric_of(metric).title} {metric_of(metric).better}".strip() for metric in metrics)
        yield LabelTable(of, titles, tuple(lines))


def _name(row: Row, *kinds: str) -> tuple[Any, ...]:
    return row["metric"], *(row.get(kind) for kind in kinds)


def _by_name(rows: Sequence[Row], *kinds: str) -> dict[tuple[Any, ...], Row]:
    return {_name(row, *kinds): row for row in rows if row.get("label") is None}


def _line(row: Row, of: str, before: Sequence[Row]) -> FigureLine:
    metric = metric_of(row["metric"])
    limit = row.get("limit", row.get("floor"))
    return FigureLine(
        title=metric.title,
        better=metric.better,
        of=of,
        reason=row.get("reason"),
        ours=_cell(metric, row, "value", "low", "high"),
        earlier=tuple(_cell(metric, each, "value", "low", "high") for each in before),
        real=_cell(metric, row, "real", "real_low", "real_high"),
        n=row.get("n"),
        limit=None if limit is None else written(metric, limit),
    )


def _cell(metric: Metric, row: Row, value: str, low: str, high: str) -> Cell:
    ends = row.get(low), row.get(high)
    low_written, high_written = (written(metric, end) for end in ends)
    between = None if None in ends else f"{low_written.removesuffix(_PERCENT)} to {high_written}"
    return Cell(written(metric, row.get(value)), between)


def _pair(name: str, row: Row | None) -> tuple[str, str]:
    if row is None or row.get("reason") or row.get("value") is None:
        return _NONE, ""
    metric = metric_of(name)
    return written(metric, row["value"]), "" if row.get("real") is None else written(metric, row["real"])


def written(metric: Metric, value: float | None) -> str:
    """Returns a value in words, a dash where there is none."""
    return _NONE if value is None or math.isnan(value) else metric.write(value)
