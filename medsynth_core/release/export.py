"""A release as files for others: an image folder or DICOM, with a table of its rows beside the images."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from PIL import Image
from pyarrow import ArrowException

from medsynth_core.errors import ConfigError, CorruptObjectError, IncompleteRunError
from medsynth_core.filters import COLUMNS as SCORES
from medsynth_core.manifest import read_rows
from medsynth_core.models.condition import finding_phrase
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release, decode_png
from medsynth_core.storage.atomic import create_directory

Row = dict[str, Any]
Encode = Callable[[Row, Image.Image], bytes]
"""The bytes of a DICOM file from an image and its row."""

_COLUMNS = (
    "image_id",
    "split",
    "prompt_id",
    "prompt",
    "pathology",
    "anatomy",
    "labels",
    "view",
    *(column.name for column in SCORES),
    "vqgan_sha256",
    "alignment_sha256",
    "llm_sha256",
    "synthetic",
    "generator",
    "generator_version",
    "spec_hash",
)
_PLACE = ("shard", "offset", "size", "sha256")
_SPLITS = ("train", "val", "test")


def export(release: Release, out: Path, layout: str, metadata: str, progress: Progress) -> int:
    """Writes all accepted images to a new folder and returns how many; a shard and its rows are in memory at a time.

    Args:
        layout: ``folder`` for ``<split>/<image_id>.png``, what Hugging Face's ``imagefolder`` loads; ``dicom`` for
            ``<image_id>.dcm``.
        metadata: ``csv`` or ``jsonl``, the table ``metadata.*`` in each folder of images.

    Raises:
        ConfigError: the layout or the kind of table is unknown.
        InputError: ``out`` exists and isn't an empty folder.
        CorruptObjectError: an image, a row or a manifest part isn't what it must be.
        IncompleteRunError: the release lacks rows.
        StoreError: ``out`` can't be written.
    """
    if layout not in ("folder", "dicom"):
        raise ConfigError(f"--format {layout!r}: expected folder or dicom")
    if metadata not in _TABLES:
        raise ConfigError(f"--metadata {metadata!r}: expected {' or '.join(_TABLES)}")
    encode = _dicom() if layout == "dicom" else None
    n_images = 0
    with create_directory(out.resolve()) as target, ExitStack() as stack:
        tables: dict[Path, Callable[[Row], object]] = {}
        for where, row, png in _images(release, progress):
            folder = target if encode else target / _split(row, where)
            if folder not in tables:
                folder.mkdir(exist_ok=True)
                stream = (folder / f"metadata.{metadata}").open("w", encoding="utf-8", newline="")
                tables[folder] = _TABLES[metadata](stack.enter_context(stream))
            path = folder / f"{row['image_id']}.{'dcm' if encode else 'png'}"
            if path.exists():
                raise CorruptObjectError(f"{where}: a second row of this id; run `medsynth verify`")
            image = decode_png(png, where)
            path.write_bytes(encode(row, image) if encode else png)
            tables[folder]({"file_name": path.name, **row})
            n_images += 1
        accepted = release.info["counts"]["accepted"]
        if n_images != accepted:
            raise IncompleteRunError(
                f"{release.where}: {n_images} rows, release.json says {accepted}; fetch the release again"
            )
    return n_images


def _images(release: Release, progress: Progress) -> Iterator[tuple[str, Row, bytes]]:
    """Yields where an image is, for messages, its row and its PNG, in order of manifest part and row."""
    parts = sorted(name for name in release.files if name.startswith("manifest/"))
    for done, part in enumerate(parts):
        progress(done, len(parts), part)
        try:
            rows = read_rows(release.read(part), (*_COLUMNS, *_PLACE)).to_pylist()
        except ArrowException as error:
            reason = str(error).splitlines()[0]
            raise CorruptObjectError(f"{release.where}: {part}: {reason}; run `medsynth verify`") from error
        shard, tar = None, b""
        for row in rows:
            where = f"{release.where}: image {row['image_id']!r} of {row['shard']!r}"
            if not re.fullmatch("[0-9a-f]{24}", str(row["image_id"])):
                raise CorruptObjectError(f"{where}: expected an id of 24 hex digits; fetch the release again")
            if row["shard"] not in release.files:
                raise CorruptObjectError(f"{where}: the release has no such shard; run `medsynth verify`")
            if row["shard"] != shard:
                shard, tar = row["shard"], release.read(row["shard"])
            offset, size = row["offset"] or 0, row["size"] or 0  # where they are null, the hash will differ
            png = tar[offset : offset + size]
            if hashlib.sha256(png).hexdigest() != row["sha256"]:
                raise CorruptObjectError(f"{where}: SHA-256 differs from the manifest; run `medsynth verify`")
            yield where, {**{key: row[key] for key in _COLUMNS}, "release": release.name}, png
    progress(len(parts), len(parts))


def _split(row: Row, where: str) -> str:
    split = row["split"]
    if split not in _SPLITS:
        raise CorruptObjectError(f"{where}: split {split!r}, expected {', '.join(_SPLITS)}; fetch the release again")
    return str(split)


def _csv(stream: TextIO) -> Callable[[Row], object]:
    writer = csv.DictWriter(stream, ("file_name", *_COLUMNS, "release"), lineterminator="\n")
    writer.writeheader()
    return lambda row: writer.writerow({key: _words(value) for key, value in row.items()})


def _jsonl(stream: TextIO) -> Callable[[Row], object]:
    return lambda row: stream.write(json.dumps(row, ensure_ascii=False) + "\n")


_TABLES = {"csv": _csv, "jsonl": _jsonl}


def _words(value: Any) -> Any:
    """Returns a list as ``a; b`` and a finding as ``large left pleural effusion``; all else as it is."""
    if isinstance(value, list):
        return "; ".join(_words(each) for each in value)
    return finding_phrase(value) if isinstance(value, dict) else value


def _dicom() -> Encode:
    from medsynth_core.release.dicom import encode_dicom

    return encode_dicom
