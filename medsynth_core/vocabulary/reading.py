"""The page ``reading.html``: how the reports of a corpus are read, those that say nothing and some drawn at random.

It holds text of reports, names and dates blotted out, and stays beside the corpus: nothing publishes it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.sections import LeftOut, Sections
from medsynth_core.vocabulary.explain import Explained, explain, status_of
from medsynth_core.vocabulary.phi import without_private

DRAWN = 50
"""Reports that are shown of each kind."""

Row = dict[str, Any]
"""A study: study_id, findings, impression."""


@dataclass(frozen=True)
class Read:
    """What the page shows.

    Attributes:
        n_studies: in the corpus.
        silent: reports that say nothing that is known, by their language, "" where that is English.
        shown: some of these.
        drawn: some of all.
        left_out: reports of which a part isn't read, by the reason.
    """

    n_studies: int
    silent: Counter[str]
    shown: Sequence[Row]
    drawn: Sequence[Row]
    left_out: Mapping[str, int]


def some(rows: Iterable[Row]) -> list[Row]:
    """Returns up to ``DRAWN`` studies, drawn at random by their ids: the same ones in whatever batches they come."""
    return heapq.nsmallest(DRAWN, rows, key=lambda row: hashlib.sha256(row["study_id"].encode()).digest())


def write_reading(read: Read, corpus: Corpus, path: Path) -> None:
    """Writes the page: one file, no network, light and dark."""
    left_out = corpus.left_out({row["study_id"] for row in [*read.shown, *read.drawn]})
    parts = {
        name: [_told(row, left_out.get(row["study_id"], ())) for row in rows]
        for name, rows in (("silent", read.shown), ("drawn", read.drawn))
    }
    environment = Environment(
        autoescape=True, loader=PackageLoader("medsynth_core.vocabulary"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["blotted"] = without_private
    environment.globals["status_of"] = status_of
    page = environment.get_template("reading.html.j2").render(
        n_studies=read.n_studies, silent=read.silent, left_out=read.left_out, parts=parts
    )
    path.write_text(page, "utf-8")


def _told(row: Row, left_out: Sequence[LeftOut]) -> tuple[str, Explained]:
    return row["study_id"], explain(Sections(row["findings"], row["impression"], tuple(left_out)))
