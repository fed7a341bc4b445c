"""The trainer's reader: a release by place and revision, as an Arrow table and as torch datasets."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from medsynth_core.errors import CorruptObjectError, IncompleteRunError, InputError
from medsynth_core.manifest import SCHEMA, read_rows
from medsynth_core.release.filters import Condition, filter_columns, matches
from medsynth_core.release.source import POINTER, find_release, local_path
from medsynth_core.storage.content import check_content, content_key, md5_of_key
from medsynth_core.storage.index import read_files
from medsynth_core.storage.store import ObjectStore
from medsynth_core.storage.withdrawn import refuse_withdrawn

if TYPE_CHECKING:
    import torch

    from medsynth_core.release.dataset import ReleaseDataset
    from medsynth_core.release.stream import ReleaseStream

_MAX_PIXELS = 64_000_000
_OF_A_SHARD = re.compile(r"(?:shards|manifest|rejected)/\w[\w-]*\.(?:tar|parquet)")
"""What a release calls a shard's files; what others left in a folder (``._x``, ``x (1)``) isn't of it."""
_AT_ONCE = 8
"""Manifest parts that are fetched together."""


@dataclass(frozen=True)
class Release:
    """An opened release.

    Attributes:
        where: place and revision, for messages.
        files: key in ``store`` by path in the dataset.
        dir_md5: hash of the dataset, or None for a folder without pointer.
        pointer: what the pointer says of the dataset (size, nfiles).
    """

    where: str
    store: ObjectStore
    files: dict[str, str]
    dir_md5: str | None
    pointer: dict[str, int] = field(default_factory=dict)

    @cached_property
    def info(self) -> dict[str, Any]:
        """``release.json``: name, spec hash, accounting, settings.

        Raises:
            CorruptObjectError: it is missing or damaged.
        """
        try:
            about: dict[str, Any] = json.loads(self.read("release.json"))
        except ValueError as error:
            raise CorruptObjectError(f"{self.where}: release.json is no JSON ({error}); fetch it again") from error
        return about

    @property
    def name(self) -> str:
        """Dataset name and the first digits of its hash."""
        return f"{self.info['name']}@{(self.dir_md5 or 'folder')[:8]}"

    def read(self, path: str) -> bytes:
        """Returns the bytes of one file of the dataset, checked unless it is of a folder without pointer.

        Raises:
            CorruptObjectError: the release has no such file, or its bytes don't match its MD5.
        """
        key = self._key(path)
        data = self.store.get(key)
        return data if self.dir_md5 is None else check_content(data, md5_of_key(key), f"{self.where}: {path}")

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Returns ``size`` bytes of a file from ``offset``.

        Raises:
            CorruptObjectError: the release has no such file, or it ends before.
        """
        data = self.store.get_range(self._key(path), offset, size)
        if len(data) != size:
            raise CorruptObjectError(f"{self.where}: {path} ends before byte {offset + size}; run `medsynth verify`")
        return data

    def manifest(self, columns: Sequence[str] | None = None, filters: Sequence[Condition] = ()) -> pa.Table:
        """Returns the rows of accepted images, in order of shard and image id, with a ``release`` column.

        Args:
            columns: names; None: all.
            filters: conditions (column, operator, value), all of which a row must meet; see ``filters.matches``.

        Raises:
            InputError: a column or a condition can't be.
            CorruptObjectError: a part is damaged.
            IncompleteRunError: there are more or fewer rows than ``release.json`` counts.
        """
        return self._parts("manifest/", self.info["counts"]["accepted"], columns, filters)

    def rejected(self, columns: Sequence[str] | None = None, filters: Sequence[Condition] = ()) -> pa.Table:
        """Returns the rows of rejected images; raises as ``manifest`` does."""
        return self._parts("rejected/", sum(self.info["counts"]["rejected"].values()), columns, filters)

    def image(self, shard: str, offset: int, size: int) -> Image.Image:
        """Returns one image by its place in the manifest, mode L.

        Raises:
            CorruptObjectError: the bytes aren't a PNG of sane size.
        """
        return decode_png(self.read_range(shard, offset, size), f"{self.where}: {shard} at {offset}")

    def dataset(
        self,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        filters: Sequence[Condition] = (),
        classes: Sequence[str] | None = None,
    ) -> ReleaseDataset:
        """Returns a map-style torch Dataset of the accepted images, read by range requests."""
        from medsynth_core.release.dataset import ReleaseDataset

        return ReleaseDataset(self, transform, filters, classes)

    def stream(
        self,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        filters: Sequence[Condition] = (),
        classes: Sequence[str] | None = None,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> ReleaseStream:
        """Returns an iterable torch Dataset of the accepted images, read in sequence."""
        from medsynth_core.release.stream import ReleaseStream

        return ReleaseStream(self, transform, filters, classes, shuffle, seed, rank, world_size)

    def _parts(
        self, prefix: str, counted: int, columns: Sequence[str] | None, filters: Sequence[Condition]
    ) -> pa.Table:
        known = [*SCHEMA.names, "release"]
        unknown = [name for name in columns or () if name not in known]
        if unknown:
            raise InputError(f"no manifest column {unknown[0]!r}; there are {', '.join(known)}")
        wanted = list(columns) if columns is not None else known
        stored = [
            name for name in dict.fromkeys([*wanted, *filter_columns(filters, SCHEMA.names)]) if name != "release"
        ]
        names = sorted(name for name in self.files if name.startswith(prefix))

        def part(name: str) -> tuple[int, pa.Table]:
            try:
                rows = read_rows(self.read(name), stored)
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise CorruptObjectError(f"{self.where}: {name}: {reason}; fetch the release again") from error
            kept = rows.filter(pa.array(matches(rows, filters))) if filters else rows
            return len(rows), kept.select([name for name in wanted if name != "release"])

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(part, names))
        if (n := sum(rows for rows, _ in found)) != counted:
            raise IncompleteRunError(
                f"{self.where}: {n} rows in {len(names)} files of {prefix}, release.json counts {counted}; fetch the "
                "release again, and see `medsynth verify`"
            )
        parts = [table for _, table in found]
        empty = SCHEMA.empty_table().select([name for name in wanted if name != "release"])
        table = pa.concat_tables([empty, *parts], promote_options="default")
        if "release" in wanted:
            table = table.append_column("release", pa.array([self.name] * len(table), pa.string()))
        return table.select(wanted)

    def _key(self, path: str) -> str:
        if path not in self.files:
            raise CorruptObjectError(f"{self.where}: the release has no file {path!r}")
        return self.files[path]


def open_release(
    repo_or_url: str | Path, rev: str | None = None, endpoint_url: str | None = None, withdrawn: bool = False
) -> Release:
    """Returns a release.

    Args:
        repo_or_url: a workspace or a clone of one; a git URL; a store, as s3://bucket/prefix or a folder; or a
            checked-out ``dataset`` folder.
        rev: git tag, branch or commit; of a store, the tag. None: the working tree, the head, or the newest release.
        endpoint_url: of an S3-compatible server, when a store is named; AWS_ENDPOINT_URL does the same.
        withdrawn: open it even if it was taken back, to look at it.

    Raises:
        InputError: there is no release, or no such revision, or the store isn't where a clone can see it.
        WithdrawnError: it was taken back; says why.
        CorruptObjectError: the pointer or the list of files is damaged.
    """
    place = local_path(str(repo_or_url))
    root = Path(place).expanduser()
    if (root / "release.json").is_file() and not (root / POINTER).exists():
        if rev is not None:
            raise InputError(
                f"{root}: a dataset folder is one version and has no revision {rev!r}; leave it out, or name the "
                "workspace or the store that it was fetched from"
            )
        return _open_folder(root.resolve())
    source = find_release(place, rev, endpoint_url)
    if not withdrawn:
        refuse_withdrawn(source.store, source.dir_md5, "choose another; open_release(..., withdrawn=True) looks at it")
    files = read_files(source.store, source.dir_md5, source.where)
    keys = {path: content_key(md5) for path, md5 in files.items()}
    return Release(source.where, source.store, keys, source.dir_md5, source.pointer)


def decode_png(data: bytes, where: str) -> Image.Image:
    """Returns a PNG's image, mode L.

    Raises:
        CorruptObjectError: the bytes aren't a PNG of sane size.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > _MAX_PIXELS:
            raise CorruptObjectError(f"{where}: {image.width}x{image.height} pixels")
        image.load()
        return image if image.mode == "L" else image.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptObjectError(f"{where}: not a PNG; run `medsynth verify`") from error


def _open_folder(root: Path) -> Release:
    from medsynth_core.storage.stores.local import LocalStore

    paths = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    paths = [path for path in paths if "/" not in path or _OF_A_SHARD.fullmatch(path)]
    return Release(str(root), LocalStore(root), {path: path for path in paths}, None)
