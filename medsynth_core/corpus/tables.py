"""Opening of CSV and Parquet tables with one clear error for what is wrong."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from medsynth_core.corpus.images import load_grey, load_mask
from medsynth_core.corpus.records import ImageU8, View, ViewPosition
from medsynth_core.errors import InputError
from medsynth_core.nearest import did_you_mean

_FRONTAL = frozenset({"frontal", "pa", "ap", "ap erect", "ap supine", "postero-anterior", "antero-posterior"})
_HEAD = 64 * 1024
"""Bytes that hold a table's first line."""
_LATERAL = frozenset({"lateral", "ll", "lat", "rl", "left lateral", "right lateral"})


def open_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Returns a CSV or Parquet table as text columns, "" for empty cells; only ``columns`` are kept.

    Raises:
        InputError: the file is missing, isn't a table, is empty or lacks a column.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise InputError(f"{path}: not found; set corpus.path to where the table is")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
        else:
            encoding, separator = _form(path)
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding=encoding, sep=separator)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: neither in UTF-8 nor in UTF-16; save the table as CSV in UTF-8") from error
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())[:200]})") from error
    for column in wanted:
        if column not in frame.columns:
            names = list(map(str, frame.columns))
            hint = did_you_mean(column, names, cutoff=0.5)
            raise InputError(f"{path}: no column {column!r}{hint} (columns found: {', '.join(names[:20])})")
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    return frame[wanted].fillna("").astype(str)


def _form(path: Path) -> tuple[str, str]:
    """Returns encoding and separator of a text table: UTF-16 by its mark, else UTF-8; what the first line has, as Excel
    writes tabs ("Unicode text") and, where a comma is in numbers, semicolons."""
    with path.open("rb") as stream:
        begins = stream.read(_HEAD)
    encoding = "utf-16" if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    header = begins.decode(encoding, "ignore").partition("\n")[0]
    if "," in header:
        return encoding, ","
    return encoding, next((separator for separator in "\t;" if separator in header), ",")


def image_folder(candidates: Iterable[Path], given: str | None, names: Iterable[str]) -> Path | None:
    """Returns the folder that image paths are relative to: the given one, else the first candidate with one of them.

    Raises:
        InputError: the given folder doesn't exist, or holds none of ``names``.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise InputError(f"{folder}: corpus.images is not a folder")
        candidates = [folder]
    wanted = [name for name in dict.fromkeys(names) if name]
    for folder in candidates:
        if any((folder / name).is_file() for name in wanted):
            return folder
    if given is not None and wanted:
        raise InputError(f"{given}: none of {len(wanted)} images is there, e.g. {wanted[0]!r}; correct corpus.images")
    return None


def file_view(folder: Path, name: str, projection: str, max_pixels: int, mask: str = "") -> View:
    """Returns the view of one image file; a path that leaves ``folder`` is refused when it is loaded.

    Args:
        mask: file of its organs; "" when there is none.
    """
    load = _loader(load_grey, folder, name, max_pixels)
    load_organs = _loader(load_mask, folder, mask, max_pixels) if mask else None
    return View(Path(name).stem, position_of(projection), str(folder / name), load, load_organs)


def position_of(projection: str) -> ViewPosition:
    """Returns the projection reduced to frontal, lateral or unknown."""
    name = projection.strip().lower()
    if name in _FRONTAL:
        return "frontal"
    return "lateral" if name in _LATERAL else "unknown"


def _loader(load: Callable[[Path, int], ImageU8], folder: Path, name: str, max_pixels: int) -> Callable[[], ImageU8]:
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return partial(load, path, max_pixels) if inside else partial(_refuse, path, folder)


def _refuse(path: Path, folder: Path) -> ImageU8:
    raise InputError(f"{path}: image path leaves its folder {folder}")
