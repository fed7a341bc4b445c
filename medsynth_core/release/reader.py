"""The trainer's reader: a release by path and revision, as an Arrow table and a torch Dataset."""

from __future__ import annotations

import configparser
import io
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from PIL import Image
from torch.utils.data import Dataset

from medsynth_core.config.tree import StoreConfig
from medsynth_core.errors import CorruptObjectError, InputError
from medsynth_core.storage.content import check_content, content_key, md5_of_key
from medsynth_core.storage.manifest import read_parquet
from medsynth_core.storage.store import ObjectStore, open_store

_POINTER = "dataset.dvc"
_MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Release:
    """An opened release.

    Attributes:
        where: repository and revision, for messages.
        files: key in ``store`` by path in the dataset.
        dir_md5: hash of the dataset, or None for a folder without pointer.
    """

    where: str
    store: ObjectStore
    files: dict[str, str]
    dir_md5: str | None

    @cached_property
    def info(self) -> dict[str, Any]:
        """``release.json``: name, spec hash, accounting, settings."""
        about: dict[str, Any] = json.loads(self.read("release.json"))
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

    def manifest(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the rows of all accepted images, in order of shard and image id, with a ``release`` column."""
        return self._parts("manifest/", columns)

    def rejected(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the rows of all rejected images."""
        return self._parts("rejected/", columns)

    def image(self, shard: str, offset: int, size: int) -> Image.Image:
        """Returns one image by its place in the manifest, mode L.

        Raises:
            CorruptObjectError: the bytes aren't a PNG of sane size.
        """
        return decode_png(self.store.get_range(self._key(shard), offset, size), f"{self.where}: {shard} at {offset}")

    def dataset(self, transform: Callable[[torch.Tensor], torch.Tensor] | None = None) -> ReleaseDataset:
        """Returns a map-style torch Dataset of the accepted images."""
        return ReleaseDataset(self, transform)

    def _parts(self, prefix: str, columns: Sequence[str] | None) -> pa.Table:
        stored = None if columns is None else [name for name in columns if name != "release"]
        names = sorted(name for name in self.files if name.startswith(prefix))
        table = pa.concat_tables([read_parquet(self.read(name), stored) for name in names])
        if columns is None or "release" in columns:
            table = table.append_column("release", pa.array([self.name] * len(table), pa.string()))
        return table

    def _key(self, path: str) -> str:
        if path not in self.files:
            raise CorruptObjectError(f"{self.where}: the release has no file {path!r}")
        return self.files[path]


class ReleaseDataset(Dataset[dict[str, Any]]):
    """Accepted images by index, read by range requests; safe to send to DataLoader workers.

    An item has ``image`` (uint8 tensor [1, H, W], after ``transform`` if given), ``image_id``, ``prompt``,
    ``pathology`` (list of terms) and ``labels`` (list of findings).
    """

    _COLUMNS = ("image_id", "shard", "offset", "size", "prompt", "pathology", "labels")

    def __init__(self, release: Release, transform: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        self._release = release
        self._transform = transform
        self._table = release.manifest(self._COLUMNS)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self._table.slice(index % len(self), 1).to_pylist()[0]
        pixels = np.array(self._release.image(row.pop("shard"), row.pop("offset"), row.pop("size")))
        image = torch.from_numpy(pixels)[None]
        return {"image": self._transform(image) if self._transform else image, **row}


def open_release(repo_or_path: str | Path, rev: str | None = None) -> Release:
    """Returns a release.

    Args:
        repo_or_path: a workspace or a clone of one; or a checked-out ``dataset`` folder.
        rev: git tag, branch or commit; the working tree when None.

    Raises:
        InputError: there is no release, or no such revision, or the store isn't where a clone can see it.
        CorruptObjectError: the pointer or the list of files is damaged.
    """
    root = Path(repo_or_path).expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"{root}: not found; expected a workspace, a clone of one or a dataset folder")
    if rev is None and (root / "release.json").is_file() and not (root / _POINTER).exists():
        return _open_folder(root)
    where = f"{root}@{rev}" if rev else str(root)
    dir_md5 = _pointed_at(_read(root, rev, _POINTER), where)
    store = _remote(root, _read(root, rev, ".dvc/config"))
    entries = json.loads(check_content(store.get(content_key(dir_md5)), dir_md5, f"{where}: list of files"))
    files = {_inside(entry["relpath"], where): content_key(entry["md5"]) for entry in entries}
    return Release(where, store, files, dir_md5)


def decode_png(data: bytes, where: str) -> Image.Image:
    """Returns the image of a PNG's bytes, mode L.

    Raises:
        CorruptObjectError: the bytes aren't a PNG of sane size.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > _MAX_PIXELS:
            raise CorruptObjectError(f"{where}: {image.width}x{image.height} pixels")
        return image.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptObjectError(f"{where}: not a PNG; run `medsynth verify`") from error


def _open_folder(root: Path) -> Release:
    from medsynth_core.storage.local import LocalStore

    files = {
        path.relative_to(root).as_posix(): path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file()
    }
    return Release(str(root), LocalStore(root), files, None)


def _read(root: Path, rev: str | None, name: str) -> str:
    if rev is None:
        path = root / name
        if not path.is_file():
            raise InputError(
                f"{root}: no {name}; it isn't a workspace with a release (give a revision, or run `medsynth run`)"
            )
        return path.read_text("utf-8")
    done = subprocess.run(
        ["git", "-C", str(root), "show", "--end-of-options", f"{rev}:./{name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "unknown reason"
        raise InputError(f"{root}: no {name} at revision {rev!r} ({reason})")
    return done.stdout


def _pointed_at(pointer: str, where: str) -> str:
    try:
        md5 = yaml.safe_load(pointer)["outs"][0]["md5"]
    except (yaml.YAMLError, TypeError, LookupError) as error:
        raise CorruptObjectError(f"{where}: {_POINTER} names no dataset; restore it with git") from error
    if not re.fullmatch(r"[0-9a-f]{32}\.dir", str(md5)):
        raise CorruptObjectError(f"{where}: {_POINTER} names {md5!r}; expected an MD5 with .dir")
    return str(md5)


def _remote(root: Path, text: str) -> ObjectStore:
    """Returns the store of the default DVC remote, ``.dvc/config.local`` over ``.dvc/config`` as in DVC.

    Relative paths are relative to ``.dvc``.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    parser.read(root / ".dvc" / "config.local", "utf-8")
    name = parser.get("core", "remote", fallback=None)
    section = f"'remote \"{name}\"'"
    if name is None or not parser.has_section(section):
        raise InputError(f"{root}/.dvc/config: no default remote; set one with `dvc remote default`")
    remote = parser[section]
    if "://" not in remote["url"] and not (folder := root / ".dvc" / remote["url"]).is_dir():
        raise InputError(
            f"{folder.resolve()}: no store there; in a clone, run "
            f"`dvc remote modify --local {name} url PATH` with the path of the first workspace's store"
        )
    return open_store(
        StoreConfig(url=remote["url"], endpoint_url=remote.get("endpointurl"), region=remote.get("region")),
        root / ".dvc",
    )


def _inside(relpath: str, where: str) -> str:
    parts = Path(relpath).parts
    if not parts or ".." in parts or Path(relpath).is_absolute():
        raise CorruptObjectError(f"{where}: path {relpath!r} leaves the release")
    return relpath
