"""Where a release is: a workspace or a clone, a git URL, a store URL, or a checked-out folder."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import yaml

from medsynth_core.errors import CorruptObjectError, InputError
from medsynth_core.storage.index import list_tags, read_entry, split_tag
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import STORES, ObjectStore, is_store_url, open_store

POINTER = "dataset.dvc"
_DVC_CONFIG = ".dvc/config"
_GIT_URL = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")


_SCHEME = re.compile(r"([A-Za-z][\w+.-]*):/")


def local_path(place: str) -> str:
    """Returns the path of a ``file://`` URL of a store or a dataset folder; any other place, a git URL too, as is."""
    if not place.startswith("file://"):
        return place
    path = Path(unquote(place.removeprefix("file://")))
    is_store = (path / "releases").is_dir() and (path / "files").is_dir() and not (path / ".dvc").is_dir()
    return str(path) if is_store or ((path / "release.json").is_file() and not (path / POINTER).exists()) else place


@dataclass(frozen=True)
class Source:
    """A release that was found.

    Attributes:
        where: place and revision, for messages.
        dir_md5: hash of the dataset.
        pointer: what the pointer says of it beside the hash (size, nfiles), where there is one.
    """

    where: str
    store: ObjectStore
    dir_md5: str
    pointer: dict[str, int]


def find_release(place: str, rev: str | None, endpoint_url: str | None) -> Source:
    """Returns where a release is.

    Args:
        place: a workspace or a clone of one, a git URL, or a store: s3://bucket/prefix or a folder.
        rev: git tag, branch or commit; of a store, the tag. None: the working tree, a branch's head, or the newest.
        endpoint_url: of a store on an S3-compatible server; AWS_ENDPOINT_URL does the same.

    Raises:
        InputError: there is no release, or no such revision, or the store isn't where a clone can see it.
        CorruptObjectError: the pointer or the store's record is damaged.
    """
    if (scheme := _SCHEME.match(place)) is not None and not (is_store_url(place) or _GIT_URL.match(place)):
        stores = ", ".join(f"{name}://" for name in STORES.names() if name != "local")
        known = f"a folder, a store ({stores}) or a git URL (https, ssh, file)"
        raise InputError(f"{place}: {scheme[1]}:// can't be opened; name {known}")
    if is_store_url(place):
        return _in_store(open_store(StoreConfig(url=place, endpoint_url=endpoint_url), Path()), rev)
    if _GIT_URL.match(place):
        return _at_git_url(place, rev)
    root = Path(place).expanduser().resolve()
    if not root.is_dir():
        found = "a file" if root.exists() else "not found"
        raise InputError(f"{root}: {found}; expected a workspace, a clone of one, a store or a dataset folder")
    if (root / "releases").is_dir() and (root / "files").is_dir() and not (root / ".dvc").is_dir():
        return _in_store(open_store(StoreConfig(url=str(root)), Path()), rev)
    where = f"{root}@{rev}" if rev else str(root)
    local = root / ".dvc" / "config.local"
    return _pointed(
        where,
        _read(root, rev, POINTER),
        _remote(_read(root, rev, _DVC_CONFIG), local.read_text("utf-8") if local.is_file() else "", root / ".dvc"),
    )


def _in_store(store: ObjectStore, rev: str | None) -> Source:
    if rev is None:
        tags = list_tags(store)
        names = sorted({split_tag(tag)[0] for tag in tags})
        if len(names) != 1:
            raise InputError(
                f"{store.url}: {f'releases of {names}; name one' if names else 'no release in this store'}"
            )
        rev = tags[-1]
    entry = read_entry(store, rev)
    return Source(f"{store.url}@{rev}", store, entry.dir_md5, {"size": entry.n_bytes, "nfiles": entry.n_files})


def _at_git_url(url: str, rev: str | None) -> Source:
    """Reads the pointer and DVC's configuration from one commit, fetched alone."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file"}
    where = f"{url}@{rev}" if rev else url
    with tempfile.TemporaryDirectory(prefix="medsynth-") as folder:
        for command in (
            ["init", "--quiet", "--bare"],
            ["fetch", "--quiet", "--depth", "1", "--no-tags", "--", url, rev or "HEAD"],
        ):
            done = subprocess.run(
                ["git", "-C", folder, *command], capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode:
                hint = "; it was read as a git repository: a store is named by s3://bucket/prefix or its folder"
                raise InputError(
                    f"{where}: {_last_line(done.stderr)}; check the URL and the revision"
                    f"{hint if url.startswith('http') else ''}"
                )
        root = Path(folder)
        pointer, config = _read(root, "FETCH_HEAD", POINTER, where), _read(root, "FETCH_HEAD", _DVC_CONFIG, where)
    origin = Path(url.removeprefix("file://")) / ".dvc" if url.startswith("file://") else None
    return _pointed(where, pointer, _remote(config, "", origin))


def _read(root: Path, rev: str | None, name: str, where: str | None = None) -> str:
    if rev is None:
        path = root / name
        if not path.is_file():
            raise InputError(
                f"{root}: no {name}; it isn't a workspace with a release (give a revision, or run `medsynth run`)"
            )
        return path.read_text("utf-8")
    prefix = "" if where else "./"
    done = subprocess.run(
        ["git", "-C", str(root), "show", "--end-of-options", f"{rev}:{prefix}{name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InputError(f"{where or root}: no {name} at revision {rev!r} ({_last_line(done.stderr)})")
    return done.stdout


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "unknown reason"


def _pointed(where: str, text: str, store: ObjectStore) -> Source:
    try:
        out = yaml.safe_load(text)["outs"][0]
        md5 = out["md5"]
    except (yaml.YAMLError, TypeError, LookupError) as error:
        raise CorruptObjectError(f"{where}: {POINTER} names no dataset; restore it with git") from error
    if not re.fullmatch(r"[0-9a-f]{32}\.dir", str(md5)):
        raise CorruptObjectError(f"{where}: {POINTER} names {md5!r}; expected an MD5 with .dir")
    return Source(where, store, str(md5), {key: out[key] for key in ("size", "nfiles") if key in out})


def _remote(text: str, local: str, folder: Path | None) -> ObjectStore:
    """Returns the store of the default DVC remote, ``.dvc/config.local`` over ``.dvc/config`` as in DVC.

    Args:
        folder: ``.dvc``, which relative paths are relative to; None when it isn't here.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    parser.read_string(local)
    name = parser.get("core", "remote", fallback=None)
    section = f"'remote \"{name}\"'"
    if name is None or not parser.has_section(section):
        raise InputError(f"{_DVC_CONFIG}: no default remote; set one with `dvc remote default`")
    remote = parser[section]
    url = remote["url"]
    if "://" not in url and not Path(url).is_absolute() and folder is None:
        raise InputError(f"the store is the folder {url!r} of another machine; open a clone, and tell it where it is")
    if "://" not in url and not (there := (folder or Path()) / url).is_dir():
        raise InputError(
            f"{there.resolve()}: no store there; in a clone, run "
            f"`dvc remote modify --local {name} url PATH` with the path of the first workspace's store"
        )
    config = StoreConfig(url=url, endpoint_url=remote.get("endpointurl"), region=remote.get("region"))
    return open_store(config, folder or Path())
