"""A run that lives in the store, so that a worker needs its URL and the run's id and no workspace:

    runs/<run_id>/plan.json       what each shard asks for
    runs/<run_id>/run.json        how it is made and judged, with each file of prompts and models by its SHA-256
    models/sha256/<xx>/<rest>     those files, each once, however many runs need it

A worker keeps them on its disk, a folder for each stage's, named by its contents. What lies below
``models/`` is of patients (thumbnails of training images, which copies are held against): who reads releases needn't
be let in there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core import __version__
from medsynth_core.config import Paths
from medsynth_core.errors import CorruptObjectError, ForeignRunError, InputError
from medsynth_core.hashing import sha256_json
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import FORMAT_VERSION, RunIdentity
from medsynth_core.synthesis.settings import Split, SynthesisParams

RUN_VERSION = 1
"""Raised when a worker of another version would understand run.json in another way."""
MODELS = "models/sha256/"
_PARTS = ("prompts", "vqgan", "alignment", "llm", "calibrate")
_NOT_NEEDED = frozenset([".png", ".jsonl"])
"""Pictures and curves of the trainings."""
_AT_ONCE = 32 * 2**20
"""Bytes of a file that are asked for together."""


class RunFile(BaseModel):
    """One file of a run's inputs: the stage that wrote it, its path in that one's folder, its SHA-256, its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    part: str
    relpath: str
    sha256: str
    size: int


class PublishedRun(BaseModel):
    """``run.json``.

    Attributes:
        generator: version of medsynth, which every image's row has: another one would write other bytes.
        identity, synthesis, quality, split: as ``ShardWorker`` has them.
        files: of prompts and models.
        spent_usd: what the prompts cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = RUN_VERSION
    format: int = FORMAT_VERSION
    generator: str = __version__
    identity: dict[str, Any]
    synthesis: dict[str, Any]
    quality: dict[str, Any]
    split: Split
    files: tuple[RunFile, ...]
    spent_usd: float


def publish(
    params: SynthesisParams, precision: str, paths: Paths, store: ObjectStore, identity: RunIdentity, run_id: str
) -> None:
    """Writes what workers need of a run to the store, beside its plan; what stands there isn't sent again.

    Args:
        precision: that the images' identity has: ``auto`` comes to something else on another machine.

    Raises:
        InputError: prompts, models or calibrated filters are missing.
        StoreError, TransientError: the store fails.
    """
    run = PublishedRun(
        identity=asdict(identity),
        synthesis=params.synthesis.model_dump(mode="json") | {"precision": precision},
        quality=params.quality.model_dump(mode="json"),
        split=params.split,
        files=tuple(_sent(store, paths)),
        spent_usd=_spent(paths["prompts"]),
    )
    store.put(_key(run_id), json.dumps(run.model_dump(mode="json"), indent=1, sort_keys=True).encode())


def read_published(store: ObjectStore, run_id: str) -> PublishedRun:
    """Returns what ``publish`` wrote.

    Raises:
        InputError: there is no such run.
        ForeignRunError: it is of another version of medsynth.
        CorruptObjectError: it can't be read.
    """
    key = _key(run_id)
    if store.size(key) is None:
        raise InputError(f"{store.url}: no run {run_id}; `medsynth plan` in its workspace writes it, and says its name")
    try:
        about = json.loads(store.get(key))
        theirs = (about["version"], about["format"], about["generator"])
        if theirs != (RUN_VERSION, FORMAT_VERSION, __version__):
            raise ForeignRunError(
                f"{store.url}: run {run_id} is of medsynth {theirs[2]} (format {theirs[0]}.{theirs[1]}), this is "
                f"{__version__} ({RUN_VERSION}.{FORMAT_VERSION}); install that version, or plan the run anew"
            )
        return PublishedRun.model_validate(about)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorruptObjectError(f"{store.url}: {key} can't be read ({error}); plan the run anew") from error


def _sent(store: ObjectStore, paths: Paths) -> Iterator[RunFile]:
    """Yields the files of all inputs, each of which stands in the store by then."""
    for part in _PARTS:
        folder = paths[part]
        if not folder.is_dir():
            raise InputError(f"{folder}: not found; run the stage {part} first")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _NOT_NEEDED)
        for path, sha256 in zip(files, paths.digests.files(files), strict=True):
            size = path.stat().st_size
            if store.size(_key_of(sha256)) != size:
                store.put(_key_of(sha256), path.read_bytes())
            yield RunFile(part=part, relpath=path.relative_to(folder).as_posix(), sha256=sha256, size=size)


def fetched(run: PublishedRun, store: ObjectStore, cache: Path) -> Paths:
    """Returns where the inputs lie on this machine's disk, after fetching those that didn't.

    Args:
        cache: a folder of this machine, which any number of workers may share.

    Raises:
        CorruptObjectError: a file isn't what the run names.
        StoreError, TransientError: the store fails.
    """
    places = {}
    for part in _PARTS:
        files = [file for file in run.files if file.part == part]
        places[part] = cache / sha256_json([[file.relpath, file.sha256] for file in files])
        if not places[part].is_dir():
            _fetch(files, store, places[part])
    return Paths(cache, places)


def _fetch(files: Sequence[RunFile], store: ObjectStore, folder: Path) -> None:
    """Makes a folder with files of the store, whole or not at all; of several who do, one is first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new.") as new:
        for file in files:
            place = (Path(new) / "of" / file.relpath).resolve()
            if not place.is_relative_to(Path(new).resolve()):
                raise CorruptObjectError(f"{store.url}: a run names a file outside its folder: {file.relpath}")
            place.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with place.open("wb") as stream:
                for start in range(0, file.size, _AT_ONCE):
                    part = store.get_range(_key_of(file.sha256), start, min(_AT_ONCE, file.size - start))
                    digest.update(part)
                    stream.write(part)
            if digest.hexdigest() != file.sha256:
                raise CorruptObjectError(
                    f"{store.url}: {_key_of(file.sha256)} isn't what its name says; delete it and plan the run anew"
                )
        try:
            (Path(new) / "of").rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _spent(prompts: Path) -> float:
    try:
        return float(json.loads((prompts / "account.json").read_text("utf-8"))["spent_usd"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _key(run_id: str) -> str:
    return f"runs/{run_id}/run.json"


def _key_of(sha256: str) -> str:
    return f"{MODELS}{sha256[:2]}/{sha256[2:]}"
