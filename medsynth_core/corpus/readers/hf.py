"""Reader of data sets as Hugging Face's ``datasets`` lays them out (version 4's documentation of image datasets).

Parquet shards hold images: ``data/train-00000-of-00010.parquet`` with a column of struct {bytes, path} and others. What
the numbers of a ClassLabel, also in a Sequence or List, mean is in the Parquet's metadata ``huggingface`` or in the
``dataset_info`` of ``README.md``. Shards are read a row group at a time.

Image folders hold images as files: with ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` beside them, whose
column ``file_name`` names them, in the folder itself or in folders called after splits; or without, in folders called
after what they show: ``train/PNEUMONIA/1.jpeg``.

``corpus.columns`` names the other columns. Not read: Arrow files of ``save_to_disk``, WebDatasets, loading scripts.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.corpus.archives import files_below
from medsynth_core.corpus.class_names import class_names
from medsynth_core.corpus.files import inside
from medsynth_core.corpus.images import load_film, load_film_bytes
from medsynth_core.corpus.json_lines import line_keys, open_lines
from medsynth_core.corpus.labels import split_named
from medsynth_core.corpus.places import place_of, version_of
from medsynth_core.corpus.records import BadRow, Pixels, Recognised, Source, Study, View
from medsynth_core.corpus.rows import ViewOf, check_patients, check_text, named_columns, studies_of
from medsynth_core.corpus.settings import ColumnsConfig, CorpusConfig
from medsynth_core.corpus.tables import Table, header, open_table, parquet, patient_column
from medsynth_core.corpus.views import file_view, projection_of
from medsynth_core.errors import InputError

log = logging.getLogger(__name__)
LICENCE = "as the data set's card says"

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
_IMAGE, _SPLIT, _STUDY, _FOLDER = "#image", "#split", "#study", "#folder"
"""Columns that every table is given."""
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm"})
_SHARD = re.compile(r"^(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})$")
_OTHER_ROW = re.compile(r"(?<=[( ])row (\d+)")
"""How ``table.studies_of`` calls another row."""
_PLAIN_FOLDERS = frozenset({"data", "images", "default"})
"""Folders that are no subset."""
_TEXTS = ("report", "text", "findings", "reports", "caption")
_STATUSES = {
    "1": "1", "present": "1", "positive": "1", "yes": "1", "true": "1",
    "0": "0", "absent": "0", "negative": "0", "no": "0", "false": "0",
    "-1": "-1", "uncertain": "-1",
    "unlabeled": "", "unlabelled": "", "not mentioned": "", "blank": "", "missing": "",
}  # fmt: skip
"""Names of classes that say whether a finding is there, as ``labels.labelled`` reads them."""


@dataclass(frozen=True)
class _Part:
    """A table of the data set, with the columns that every one is given."""

    table: Table
    names: list[str]


def open_source(config: CorpusConfig, seed: int) -> Source:
    """Returns the studies of a folder of shards or images, or of one shard.

    Raises:
        InputError: neither is there, a file or column is missing, a label has no name, or there are several subsets.
    """
    root = place_of(config.path)
    if not root.exists():
        raise InputError(f"{root}: not found; set corpus.path to the data set's folder")
    shards, metadata = _shards(root), _metadata(root)
    if shards:
        return _from_shards(root, shards, config)
    if metadata:
        return _from_metadata(root, metadata, config)
    return _from_classes(root, config)


def recognise(place: Path) -> Recognised | None:
    """Returns which of the layouts a folder has, with the columns that seem to hold reports or findings."""
    settings: dict[str, object] = {"kind": "hf", "path": str(place)}
    if shards := _shards(place):
        return _recognised_shards(place, shards, settings)
    if not place.is_dir():
        return None
    if metadata := _metadata(place):
        names = header(metadata[0]) if metadata[0].suffix != ".jsonl" else line_keys(metadata[0])
        if _FILE_NAME not in names:
            return None
        columns = {"text": next((name for name in _TEXTS if name in names), None), "patient": patient_column(names)}
        found = (f"{len(metadata)} {metadata[0].name}", f"columns {', '.join(names[:20])}")
        return Recognised("a Hugging Face image folder with metadata", {**settings, "columns": columns}, found, rank=3)
    classes = Counter(label for name in _images(place) if (label := _class(Path(name))))
    if len(classes) < 2:
        return None
    shown = ", ".join(f"{n} {name}" for name, n in classes.most_common(10))
    missing = ("reports; the classes are all that is known",)
    return Recognised("folders of images by class", settings, (shown,), missing, rank=10)


def _recognised_shards(place: Path, shards: list[Path], settings: dict[str, object]) -> Recognised:
    schema = _schema(shards[0])
    classes = [name for name, names in class_names(schema, _folder(place)).items() if names]
    text = next((name for name in _TEXTS if name in schema.names), None)
    findings = None if text or not classes else classes[0]
    columns = {"text": text, "findings": findings, "patient": patient_column(schema.names)}
    rows = sum(_about(shard).num_rows for shard in shards)
    found = (f"{rows} rows in {len(shards)} shards", f"columns {', '.join(schema.names[:20])}")
    return Recognised("Hugging Face Parquet with images", {**settings, "columns": columns}, found, rank=3)


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _split(parts: Iterable[str]) -> str:
    """Returns the split that a path's parts name, "" where none does."""
    return next((split for part in parts if (split := split_named(part)) is not None), "")


def _given_columns(config: CorpusConfig, **changed: object) -> CorpusConfig:
    """Returns the settings with the columns that every table is given, where the user's name none."""
    columns = config.columns
    own = {"image": _IMAGE, "study": columns.study or _STUDY, "split": columns.split or _SPLIT, **changed}
    return config.model_copy(update={"columns": columns.model_copy(update=own)})


def _named(columns: ColumnsConfig) -> list[str]:
    """Returns the columns that the settings name, but for the image's."""
    return named_columns(columns.model_copy(update={"image": ""}))


def _source(root: Path, parts: list[_Part], config: CorpusConfig, view_of: ViewOf) -> Source:
    """Returns the studies of tables, which are one: a study may be in several."""
    columns = config.columns
    for part in parts:
        check_patients(part.table.path, part.names, columns)
    names = sorted(set.intersection(*(set(part.table.columns) for part in parts)))
    data = pa.concat_tables([part.table.data.select(names) for part in parts])
    whole = Table(root, data, np.arange(data.num_rows, dtype=np.int64)).head(config.max_studies)
    for name in filter(None, (columns.study, columns.patient)):
        whole = whole.whole(name)
    if columns.text:
        check_text(whole, columns.text)
    bad = [row for part in parts for row in part.table.bad]
    studies = _placed(studies_of(whole, config, view_of), root, [part.table for part in parts])
    return Source(chain(bad, studies), len(whole) + len(bad), LICENCE)


def _placed(rows: Iterator[Study | BadRow], root: Path, tables: list[Table]) -> Iterator[Study | BadRow]:
    """Yields rows, bad ones with their own file and their number in it."""
    starts = np.cumsum([0, *(len(table) for table in tables)]).tolist()

    def place(number: int) -> tuple[Table, int]:
        index = bisect_right(starts, number) - 1
        return tables[index], int(tables[index].numbers[number - starts[index]])

    def other(found: re.Match[str]) -> str:
        table, number = place(int(found[1]))
        return f"row {number} of {table.path.name}"

    for row in rows:
        if isinstance(row, BadRow) and row.source == str(root) and row.row is not None:
            table, number = place(row.row)
            yield BadRow(str(table.path), number, _OTHER_ROW.sub(other, row.reason))
        else:
            yield row


# Parquet shards


def _shards(root: Path) -> list[Path]:
    """Returns the Parquet files that hold images, by their names."""
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return [path for path in shown if path.suffix == ".parquet" and path.name not in _METADATA and _has_images(path)]


def _has_images(path: Path) -> bool:
    try:
        return bool(_image_columns(_schema(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cut off or damaged ({' '.join(str(error).split())[:200]})") from error


def _schema(path: Path) -> pa.Schema:
    with parquet(path) as file:
        return file.schema_arrow


def _about(path: Path) -> pq.FileMetaData:
    with parquet(path) as file:
        return file.metadata


def _image_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _from_shards(root: Path, shards: list[Path], config: CorpusConfig) -> Source:
    columns = config.columns
    if not (columns.text or columns.findings or columns.labels):
        raise InputError(f"{root}: set corpus.columns.text, corpus.columns.findings or corpus.columns.labels")
    if columns.mask:
        raise InputError(f"{root}: masks aren't read from Parquet; set corpus.columns.mask to null")
    _check_subsets(root, shards)
    _tell_of_missing(root, shards)
    image = _image_column(shards[0], columns.image)
    parts = [_shard(root, path, config) for path in shards if _about(path).num_rows]
    if not parts:
        raise InputError(f"{root}: its shards have no rows")
    groups = {_name(root, path): _starts(path) for path in shards}
    changed = _given_columns(config)
    return _source(root, parts, changed, partial(_row_view, _folder(root), image, groups, changed))


def _check_subsets(root: Path, shards: list[Path]) -> None:
    """Raises InputError for shards of several subsets, which may hold the same films."""
    subsets = {
        parent
        for path in shards
        if (parent := "/".join(part for part in path.relative_to(_folder(root)).parts[:-1] if _is_subset(part)))
    }
    if len(subsets) > 1:
        raise InputError(f"{root}: several subsets ({', '.join(sorted(subsets))}); set corpus.path to one of them")


def _is_subset(part: str) -> bool:
    return part.lower() not in _PLAIN_FOLDERS and split_named(part) is None


def _tell_of_missing(root: Path, shards: list[Path]) -> None:
    there: Counter[tuple[Path, str, int]] = Counter()
    for path in shards:
        if (found := _SHARD.match(path.stem)) is not None:
            there[(path.parent, found["split"], int(found["total"]))] += 1
    for (_, split, total), n in there.items():
        if n < total:
            log.warning("%s: %d of %d shards of %s are there; the others are left out", root, n, total, split)


def _image_column(path: Path, named: str | None) -> str:
    """Returns the column of images: the named one, else the only one."""
    found = _image_columns(_schema(path))
    if named is not None and named in found:
        return named
    if len(found) > 1:
        raise InputError(f"{path}: images are in columns {', '.join(found)}; set corpus.columns.image to one of them")
    return found[0]


def _name(root: Path, path: Path) -> str:
    return path.relative_to(_folder(root)).as_posix()


def _starts(path: Path) -> list[int]:
    """Returns the first row of each row group."""
    about = _about(path)
    sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    return [int(each) for each in np.cumsum([0, *sizes])[:-1]]


def _shard(root: Path, path: Path, config: CorpusConfig) -> _Part:
    """Returns a shard's columns but for its images, labels by their names."""
    columns = config.columns
    table = open_table(path, _named(columns))
    schema = _schema(path)
    names = class_names(schema, _folder(root))
    data = table.data
    for name in table.columns:
        cells = table.column(name)
        if names.get(name):
            cells = [_by_name(path, name, cell, names[name]) for cell in cells]
        elif name == columns.findings and any(cells) and all(re.fullmatch(r"[\d;]*", cell) for cell in cells):
            raise InputError(f"{path}: column {name!r} holds numbers of classes, which neither it nor README.md names")
        if name in columns.labels and names.get(name):
            cells = [_status(path, name, cell) for cell in cells]
        data = data.set_column(data.column_names.index(name), name, pa.array(cells, pa.string()))
    shard = _name(root, path)
    split = _split((*Path(shard).parts[:-1], re.split(r"[-_.]", path.stem)[0]))
    ids = [f"{shard}#{row}" for row in range(len(table))]
    return _Part(Table(path, _with(data, ids, [split] * len(ids)), table.numbers, table.bad), list(schema.names))


def _with(
    data: pa.Table, images: Sequence[str], splits: Sequence[str], studies: Sequence[str] | None = None
) -> pa.Table:
    """Returns a table with the columns that every one is given."""
    own = {_IMAGE: images, _SPLIT: splits, _STUDY: images if studies is None else studies}
    for name, cells in own.items():
        data = data.append_column(name, pa.array(cells, pa.string()))
    return data


def _by_name(path: Path, column: str, cell: str, names: list[str]) -> str:
    """Returns a cell's classes by their names, with semicolons between; -1 is none."""
    said = []
    for number in cell.split(";"):
        if number in {"", "-1"}:
            continue
        if not number.isdigit() or int(number) >= len(names):
            raise InputError(f"{path}: column {column!r} holds {number!r}, but its classes are 0 to {len(names) - 1}")
        said.append(names[int(number)])
    return ";".join(said)


def _status(path: Path, column: str, name: str) -> str:
    status = _STATUSES.get(name.lower().replace("_", " ")) if name else ""
    if status is None:
        raise InputError(f"{path}: column {column!r} has a class {name!r}; present, absent or uncertain is wanted")
    return status


def _row_view(
    root: Path, image: str, groups: dict[str, list[int]], config: CorpusConfig, row: dict[str, str]
) -> View | None:
    name, _, number = row[_IMAGE].rpartition("#")
    group = bisect_right(groups[name], int(number)) - 1
    word = row[config.columns.view] if config.columns.view else ""
    known = projection_of(word)
    source = f"{root / name} row {number}"
    place = int(number) - groups[name][group]
    load = partial(_load_row, root, name, image, group, place, source, config.max_image_pixels, config.image_size)
    return View(
        row[_IMAGE], known, source, load, called=word if known == "unknown" else "", files=(root / name,)
    )  # fmt: skip


def _load_row(
    root: Path, name: str, image: str, group: int, place: int, source: str, max_pixels: int, size: int
) -> Pixels:
    """Returns the film of a row; a row that has no bytes names a file."""
    try:
        cell = _group(root / name, image, group, version_of(root / name))[place].as_py()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: can't be read ({' '.join(str(error).split())[:200]})") from error
    said = cell if isinstance(cell, dict) else {"bytes": cell}
    if said.get("bytes"):
        return load_film_bytes(said["bytes"], source, max_pixels, size)
    if not said.get("path"):
        raise InputError(f"{source}: no image")
    try:
        return load_film(inside(root, said["path"]), max_pixels, size)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


@lru_cache(maxsize=1)
def _group(path: Path, column: str, group: int, version: tuple[object, ...]) -> pa.ChunkedArray:
    """Returns a row group's images; the last one is kept, for rows are asked for in order."""
    with parquet(path) as file:
        return file.read_row_group(group, columns=[column])[column]


# image folders


def _metadata(root: Path) -> list[Path]:
    """Returns the metadata files of a folder and of the two levels below it."""
    if not root.is_dir():
        return []
    found = [path for depth in ("", "*/", "*/*/") for name in _METADATA for path in root.glob(f"{depth}{name}")]
    kept: dict[Path, Path] = {}
    for path in sorted(found, key=lambda each: _METADATA.index(each.name)):
        kept.setdefault(path.parent, path)
    return sorted(kept.values())


def _images(root: Path) -> list[str]:
    """Returns the names of the image files below a folder, relative to it."""
    return [name for name in files_below(root) if Path(name).suffix.lower() in _SUFFIXES]


def _from_metadata(root: Path, metadata: list[Path], config: CorpusConfig) -> Source:
    columns = config.columns
    if not (columns.text or columns.findings or columns.labels):
        raise InputError(f"{root}: set corpus.columns.text, corpus.columns.findings or corpus.columns.labels")
    images = root if config.images is None else place_of(config.images)
    if not images.is_dir():
        raise InputError(f"{images}: corpus.images is not a folder")
    there = {unicodedata.normalize("NFC", name): name for name in _images(images)}
    parts = []
    for path in metadata:
        table, names, image = _opened(path, columns)
        inner = path.parent.relative_to(root) if config.images is None else Path()
        parts.append(_Part(_on_disk(table, image, columns.mask, inner, there), names))
    if not any(any(part.table.column(_IMAGE)) for part in parts):
        table, _, image = _opened(metadata[0], columns)
        named = next((name for name in table.column(image) if name), "")
        raise InputError(
            f"{metadata[0]}: none of its images is among {len(there)} in {images}, e.g. {named!r}; set corpus.images "
            f"to the folder that they are relative to"
        )
    changed = _given_columns(config)
    return _source(root, parts, changed, partial(_file_view, images, changed))


def _opened(path: Path, columns: ColumnsConfig) -> tuple[Table, list[str], str]:
    """Returns a metadata file, the names of all of its columns, and the one that names images."""
    is_lines = path.suffix == ".jsonl"
    names = line_keys(path) if is_lines else header(path)
    image = columns.image if columns.image in names else _FILE_NAME
    read = open_lines if is_lines else open_table
    return read(path, [image, *_named(columns)]), names, image


def _on_disk(table: Table, image: str, mask: str | None, inner: Path, there: dict[str, str]) -> Table:
    """Returns the rows whose images are there, or that name none, with paths from where all images are."""

    def full(name: str) -> str:
        return unicodedata.normalize("NFC", (inner / name.replace("\\", "/")).as_posix()) if name else ""

    named = [full(name) for name in table.column(image)]
    kept = [index for index, name in enumerate(named) if not name or name in there]
    if len(kept) < len(named):
        absent = len(named) - len(kept)
        log.warning("%s: %d of %d images aren't there; their rows are left out", table.path, absent, len(named))
    data = table.data.take(pa.array(kept, pa.int64()))
    if mask:
        masks = pa.array([full(name) for name in data[mask].to_pylist()], pa.string())
        data = data.set_column(data.column_names.index(mask), mask, masks)
    if image == _FILE_NAME:
        data = data.drop_columns([image])
    numbers = table.numbers[kept]
    images = [there.get(named[index], "") for index in kept]
    studies = [name or f"{table.path.name}#{number}" for name, number in zip(images, numbers, strict=True)]
    splits = [_split(Path(name).parts[:-1] or inner.parts) for name in images]
    return Table(table.path, _with(data, images, splits, studies), numbers, table.bad)


def _file_view(images: Path, config: CorpusConfig, row: dict[str, str]) -> View | None:
    columns = config.columns
    if not row[_IMAGE]:
        return None
    projection = row[columns.view] if columns.view else ""
    mask = row[columns.mask] if columns.mask else ""
    return file_view(images, row[_IMAGE], config, projection=projection, mask=mask)


def _from_classes(root: Path, config: CorpusConfig) -> Source:
    """Returns images whose folders say what they show; the settings' columns don't count."""
    if not root.is_dir():
        raise InputError(f"{root}: corpus.path is neither a folder nor Parquet with images")
    names = _images(root)
    classes = [_class(Path(name)) for name in names]
    if not any(classes):
        raise InputError(
            f"{root}: no Parquet with images, no {', '.join(_METADATA)}, and no folders of images called after what "
            f"they show; set corpus.path to the data set's folder"
        )
    bad = [
        BadRow(str(root / name), None, "in no folder that is called after what it shows")
        for name, label in zip(names, classes, strict=True)
        if not label
    ]
    named = [(name, label) for name, label in zip(names, classes, strict=True) if label]
    data = pa.table({_FOLDER: pa.array([label for _, label in named], pa.string())})
    data = _with(data, [name for name, _ in named], [_split(Path(name).parts[:-1]) for name, _ in named])
    table = Table(root, data, np.arange(2, 2 + len(named), dtype=np.int64), bad)
    only = ColumnsConfig(text=None, findings=_FOLDER, origin=config.columns.origin)
    changed = _given_columns(config.model_copy(update={"columns": only}))
    return _source(root, [_Part(table, [])], changed, partial(_file_view, root, changed))


def _class(name: Path) -> str:
    """Returns the folder that says what an image shows: the first that isn't a split's; "" where there is none."""
    return next((part for part in name.parts[:-1] if _is_subset(part)), "")
