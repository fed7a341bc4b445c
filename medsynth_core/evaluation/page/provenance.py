"""Where a release comes from, as titles and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medsynth_core.filters import FILTERS

About = Mapping[str, Any]
_SAMPLING = {
    "samples_per_prompt": "images a prompt",
    "view": "view",
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "guidance": "guidance",
    "seed": "seed",
    "precision": "arithmetic",
}


@dataclass(frozen=True)
class FilterLine:
    """One filter: whether it ran, its settings and the bounds that came of them."""

    name: str
    ran: bool
    settings: str
    bounds: str


def sampling_lines(about: About) -> list[tuple[str, str]]:
    """Returns what was set for the images, titles and values; what changes no image is left out."""
    found: About = about["sampling"]
    return [(title, _said(found[name])) for name, title in _SAMPLING.items() if name in found]


def filter_lines(about: About) -> list[FilterLine]:
    """Returns the filters that ran, in their order, then those that didn't."""
    quality, bounds = about["quality"], about.get("bounds", {})
    lines = []
    for each in sorted(FILTERS, key=lambda each: each.name not in quality["enabled"]):
        settings = quality.get(each.name)
        limits = [column.bound for column in each.columns if column.bound in bounds]
        lines.append(
            FilterLine(
                each.name,
                each.name in quality["enabled"],
                ", ".join(f"{key} {_said(value)}" for key, value in settings.items())
                if isinstance(settings, dict)
                else "",
                ", ".join(f"{bounds[key]:.4g}" + (f" ({key})" if len(limits) > 1 else "") for key in limits),
            )
        )
    return lines


def corpus_line(about: About) -> str:
    """Returns what the models learnt from and what was held out."""
    corpus = about["corpus"]
    counted = [
        f"{corpus['studies'][split]} studies and {corpus['views'][split]} views of split {split}"
        for split in ("train", "val", "test")
        if split in corpus.get("studies", {}) and split in corpus.get("views", {})
    ]
    return f"{corpus['kind']} ({corpus['licence']})" + (f": {', '.join(counted)}" if counted else "")


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)
