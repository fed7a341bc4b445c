"""Reader of any CSV or Parquet table with a text column and an image-path column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from medsynth_core.corpus.records import BadRow, Source, Study, View
from medsynth_core.corpus.sections import read_sections
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import file_view, image_folder, open_table
from medsynth_core.errors import InputError


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns one study a distinct study id (a row, when no study column is named).

    Raises:
        InputError: the table, a column or the image folder is missing.
    """
    path = Path(str(config.path)).expanduser()
    columns = config.columns
    named = [
        columns.text,
        columns.image,
        columns.study,
        columns.patient,
        columns.view,
        columns.impression,
        columns.mask,
    ]
    frame = open_table(path, [name for name in named if name])
    images = image_folder([path.parent, path.parent / "images"], config.images, frame[columns.image])
    if images is None and (frame[columns.image] != "").any():
        raise InputError(
            f"{path}: column {columns.image!r} names images, but none is in {path.parent} or its images/ folder; "
            f"set corpus.images to the folder that they are relative to"
        )
    frame = frame.head(config.max_studies or len(frame))
    return Source(_studies(frame, images, config, path), len(frame), "as the source's terms say")


def _studies(frame: pd.DataFrame, images: Path | None, config: CorpusConfig, path: Path) -> Iterator[Study | BadRow]:
    columns = config.columns
    keys = frame[columns.study] if columns.study else pd.Series([f"row-{i:06d}" for i in range(len(frame))])
    for study_id, rows in frame.groupby(keys.to_numpy(), sort=False):
        number = int(rows.index[0]) + 2
        first = rows.iloc[0]
        findings, impression, left_out = read_sections(first[columns.text])
        if columns.impression:
            impression = first[columns.impression].strip()
        if not (findings or impression):
            only = f" but {' and '.join({part.reason: 0 for part in left_out})}" if left_out else ""
            yield BadRow(str(path), number, f"no text in column {columns.text!r}{only}")
            continue
        views: list[View] = []
        for _, row in rows.iterrows():
            if images is not None and row[columns.image]:
                projection = row[columns.view] if columns.view else ""
                mask = row[columns.mask] if columns.mask else ""
                views.append(file_view(images, row[columns.image], projection, config.max_image_pixels, mask))
        patient = first[columns.patient] if columns.patient else ""
        yield Study(str(study_id), patient or str(study_id), findings, impression, tuple(views), left_out=left_out)
