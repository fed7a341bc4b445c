"""Reader of any CSV or Parquet table with a column of reports or of findings, and one of image paths."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from medsynth_core.corpus.files import image_folder
from medsynth_core.corpus.files import missing as missing_image
from medsynth_core.corpus.guess import filled, guess_columns
from medsynth_core.corpus.labels import splits_in
from medsynth_core.corpus.places import place_of, unpacking
from medsynth_core.corpus.records import Recognised, Source, View
from medsynth_core.corpus.rows import LOOKED_AT, check_patients, check_text, image_of, named_columns, studies_of
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.tables import Table, header, open_table
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError

_ENDING = re.compile(r"\.(csv|tsv|txt|parquet|pq)(\.(gz|bz2|xz|zip))?$", re.IGNORECASE)


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns one study a distinct study id (a row, when no study column is named).

    Raises:
        InputError: the table, a column or the image folder is missing, or a column holds something else.
    """
    path = place_of(config.path)
    columns = config.columns
    if not (columns.text or columns.findings or columns.labels):
        raise InputError(f"{path}: set corpus.columns.text, corpus.columns.findings or corpus.columns.labels")
    table = open_table(path, named_columns(columns))
    check_patients(path, header(path), columns)
    for name in filter(None, (columns.study, columns.patient)):
        table = table.whole(name)
    if columns.text:
        check_text(table, columns.text)
    named_images = table.some(columns.image) if columns.image else []
    images = image_folder([path.parent, path.parent / "images"], config.images, named_images)
    if images is None and named_images:
        raise InputError(
            f"{path}: column {columns.image!r} names images, but none is in {path.parent} or its images/ folder, e.g. "
            f"{named_images[0]!r} ({missing_image(path.parent, named_images[0])}); set corpus.images to the folder "
            f"that they are relative to"
        )
    table = table.head(config.max_studies)
    splits = splits_in(table.column(columns.split)) if columns.split else frozenset[str]()
    total = len(table) + len(table.bad)
    masks = _mask_folder(path, images, table, config)
    studies = studies_of(table, config, partial(_view, images, masks, config))
    return Source(studies, total, "as the source's terms say", splits)


def recognise(place: Path) -> Recognised | None:
    """Returns which table of a folder, or which file, is read, and what its columns seem to hold."""
    if unpacking(place):
        return None
    files = [place] if place.is_file() else sorted(path for path in place.glob("*") if _ENDING.search(path.name))
    best: Recognised | None = None
    for path in files:
        try:
            table = open_table(path, header(path))
        except InputError:
            continue
        seen = _recognised(path, table)
        if seen is not None and (best is None or len(seen.found) > len(best.found)):
            best = seen
    return best


def _recognised(path: Path, table: Table) -> Recognised | None:
    folders = [path.parent, path.parent / "images"]
    columns = guess_columns(table, folders)
    given = [str(columns["findings"])] if "findings" in columns else [*columns.get("labels", [])]  # type: ignore[misc]
    if not (columns["text"] or (given and columns["image"])):
        return None
    said = [f"{what} in column {name!r}" for what, name in columns.items() if isinstance(name, str)]
    if isinstance(labels := columns.get("labels"), list):
        said.append(f"findings in {len(labels)} columns of their own")
    named = {"patient": "patients", "view": "projections", "sex": "sexes", "age": "ages"}
    missing = [f"no column of {several}" for what, several in named.items() if what not in columns]
    if columns["text"] is None:
        missing.append("no reports: texts are written from the findings")
    if (image := columns["image"]) is None:
        missing.append("no column of images: prompts can be written, but no model trained")
    else:
        names = [name for name in table.column(str(image)) if name]
        folder = image_folder(folders, None, names)
        there = 0 if folder is None else sum(missing_image(folder, name) is None for name in names[:LOOKED_AT])
        said.append(f"{there} of {len(names[:LOOKED_AT])} images that were looked for")
    if table.bad:
        missing.append(f"{len(table.bad)} rows have more or fewer cells than the header")
    settings: dict[str, object] = {"kind": "table", "path": str(path)}
    settings |= {f"columns.{what}": name for what, name in columns.items()}
    if columns["text"] and given and filled(table, given) > filled(table, [str(columns["text"])]):
        settings["labels"] = "given"
    return Recognised(f"a table of {len(table)} rows", settings, tuple(said), tuple(missing), rank=9)


def _mask_folder(path: Path, images: Path | None, table: Table, config: CorpusConfig) -> Path | None:
    """Returns the folder that masks are relative to: masks/ beside the table, else the images', else the table's."""
    if config.columns.mask is None or images is None:
        return None
    return image_folder([path.parent / "masks", images, path.parent], None, table.some(config.columns.mask)) or images


def _view(images: Path | None, masks: Path | None, config: CorpusConfig, row: dict[str, str]) -> View | None:
    columns = config.columns
    image = image_of(row, config)
    if images is None or not image:
        return None
    projection = row[columns.view] if columns.view else ""
    mask = row[columns.mask] if columns.mask else ""
    return file_view(images, image, config, projection=projection, mask=mask, masks=masks)
