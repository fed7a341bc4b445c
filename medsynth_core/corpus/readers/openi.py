"""Reader of the Open-i / Indiana University layout: two CSV files and an image folder."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from medsynth_core.corpus.records import BadRow, Source, Study, View
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import file_view, image_folder, open_table
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
    images = image_folder(candidates, config.images, projections["filename"])
    views: dict[str, list[View]] = defaultdict(list)
    if images is None:
        log.warning("%s: no image folder: %d reports are read without images", folder, len(reports))
    else:
        for uid, name, projection in projections.itertuples(index=False):
            views[uid].append(file_view(images, name, projection, config.max_image_pixels))
    reports = reports.head(config.max_studies or len(reports))
    return Source(_studies(reports, views, folder / "indiana_reports.csv"), len(reports), LICENCE)


def _studies(reports: pd.DataFrame, views: dict[str, list[View]], path: Path) -> Iterator[Study | BadRow]:
    for row, (uid, findings, impression) in enumerate(reports.itertuples(index=False), start=2):
        if not uid.strip():
            yield BadRow(str(path), row, "empty uid")
        elif not (findings.strip() or impression.strip()):
            yield BadRow(str(path), row, "no findings and no impression")
        else:
            yield Study(f"openi-{uid}", f"openi-{uid}", findings, impression, tuple(views.get(uid, ())))
