"""Reader of the Open-i / Indiana University layout: two CSV files and an image folder."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from medsynth_core.corpus.files import image_folder
from medsynth_core.corpus.records import BadRow, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "Open-i Indiana University collection: CC BY-NC-ND 4.0"


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of ``corpus.path``; a uid is one patient's one study.

    Without an image folder all studies come without views: they still mine and prompt.

    Raises:
        InputError: a file or a column is missing.
    """
    folder = Path(str(config.path)).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: corpus.path is not a folder (kind openi wants the one of indiana_reports.csv)")
    reports = open_table(folder / "indiana_reports.csv", ["uid", "findings", "impression"])
    projections = open_table(folder / "indiana_projections.csv", ["uid", "filename", "projection"])
    candidates = [folder / "images", folder / "images" / "images_normalized", folder]
    images = image_folder(candidates, config.images, projections.column("filename"))
    views: dict[str, list[View]] = defaultdict(list)
    if images is None:
        log.warning("%s: no image folder: %d reports are read without images", folder, len(reports))
    else:
        for _, row in projections.rows():
            views[row["uid"]].append(file_view(images, row["filename"], config, projection=row["projection"]))
    reports = reports.head(config.max_studies)
    total = len(reports) + len(reports.bad) + len(projections.bad)
    return Source(_studies(reports, projections.bad, views), total, LICENCE)


def _studies(reports: Table, bad: list[BadRow], views: dict[str, list[View]]) -> Iterator[Study | BadRow]:
    yield from (*reports.bad, *bad)
    for number, row in reports.rows():
        if not row["uid"]:
            yield BadRow(str(reports.path), number, "empty uid")
        elif not (row["findings"] or row["impression"]):
            yield BadRow(str(reports.path), number, "no findings and no impression")
        else:
            uid = f"openi-{row['uid']}"
            yield Study(uid, uid, row["findings"], row["impression"], tuple(views.get(row["uid"], ())))
