"""The release stage: finished shards in, a DVC-versioned dataset out, without moving an image again.

Shards already stand at their final places in the DVC remote; a release adds ``release.json``, its description, the
``.dir`` object that lists all files, and the pointer ``dataset.dvc`` in the workspace (contract C4).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medsynth_core import __version__
from medsynth_core.config import Config, Paths
from medsynth_core.errors import IncompleteRunError, InputError
from medsynth_core.progress import Progress
from medsynth_core.release.describe import describe
from medsynth_core.storage.atomic import replace_directory, write_bytes_atomically
from medsynth_core.storage.completion import CompletionRecord
from medsynth_core.storage.content import ObjectRef, content_key, get_content, put_content
from medsynth_core.storage.manifest import SCHEMA_VERSION, read_parquet
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

STAGE_VERSION = 2


@dataclass(frozen=True)
class ReleaseReport:
    """What was released.

    Attributes:
        dir_md5: hash of the dataset in DVC's terms, ``....dir``.
        counts: requested, accepted, rejected and failed.
    """

    name: str
    dir_md5: str
    n_files: int
    n_bytes: int
    counts: dict[str, Any]


def run(config: Config, paths: Paths, store: ObjectStore, progress: Progress) -> ReleaseReport:
    """Checks the accounting, writes the dataset's small files to the store and the pointer to the workspace.

    Raises:
        InputError: there is no judged run, corpus or prompt account.
        IncompleteRunError: the sums are off, shards, rows or objects are missing, or no image was accepted.
        CorruptObjectError: a manifest part's bytes don't match its record.
    """
    judged = ShardList.load(paths.quality, "quality")
    prompts = _account(paths.prompts / "account.json", "prompts")
    _check_accounting(judged)
    files = [ref for record in judged.shards for ref in _files(record)]
    for done, ref in enumerate(files):
        if store.size(content_key(ref.md5)) != ref.size:
            raise IncompleteRunError(
                f"{store.url}: {ref.relpath} ({content_key(ref.md5)}) is missing or has another size; "
                f"delete the completion record of its shard and run again"
            )
        progress(done, len(files), "checking objects")
    about: dict[str, Any] = {
        "name": config.release.name,
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "generator": "medsynth",
        "generator_version": __version__,
        "spec_hash": judged.spec_hash,
        "run_id": judged.run_id,
        "model_digests": judged.model_digests,
        "counts": judged.counts.model_dump(mode="json"),
        "prompts": {key: prompts[key] for key in ("provider", "requested", "accepted", "rejected")},
        "corpus": _corpus(paths),
        "pathologies": _count_rows(judged, store),
        "image_size": config.corpus.image_size,
        "sampling": config.synthesis.model_dump(mode="json"),
        "quality": config.quality.model_dump(mode="json"),
        "bounds": judged.bounds,
        "release": config.release.model_dump(mode="json"),
        "own_models": config.models.path is None,
    }
    text = (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()
    files.append(put_content(store, "release.json", text))
    files.extend([put_content(store, name, data) for name, data in describe(about, files).items()])
    dir_md5 = _write_dir(store, files)
    n_bytes = sum(ref.size for ref in files)
    _write_pointer(paths.root / "dataset.dvc", dir_md5, n_bytes, len(files))
    report = ReleaseReport(config.release.name, dir_md5, len(files), n_bytes, about["counts"])
    with replace_directory(paths.release) as folder:
        (folder / "release.json").write_bytes(text)
        (folder / "dataset.json").write_text(
            json.dumps({"dir_md5": dir_md5, "n_files": len(files), "n_bytes": n_bytes}, indent=2) + "\n", "utf-8"
        )
    progress(len(files), len(files))
    return report


def _check_accounting(judged: ShardList) -> None:
    """Every record's own sum was checked when it was read; here they must add up to the total."""
    numbers = [record.shard for record in judged.shards]
    expected = judged.shards[0].n_shards if judged.shards else 1
    if numbers != list(range(expected)) or any(record.run_id != judged.run_id for record in judged.shards):
        raise IncompleteRunError(
            f"run {judged.run_id}: shards.json lists shards {numbers} of {expected}; expected each once and of this "
            f"run; run `medsynth synthesis` and `medsynth quality` again"
        )
    requested = sum(record.counts.requested for record in judged.shards)
    accepted = sum(record.counts.accepted for record in judged.shards)
    if (requested, accepted) != (judged.counts.requested, judged.counts.accepted):
        raise IncompleteRunError(
            f"accounting is off: shards sum to {accepted} of {requested}, shards.json says "
            f"{judged.counts.accepted} of {judged.counts.requested}; run `medsynth quality` again"
        )
    if not accepted:
        reasons = ", ".join(f"{reason} {n}" for reason, n in judged.counts.rejected.items())
        raise IncompleteRunError(f"no image was accepted of {requested} ({reasons}); train longer or loosen quality")


def _files(record: CompletionRecord) -> list[ObjectRef]:
    return [ref for ref in (record.tar, record.manifest, record.rejected) if ref is not None]


def _count_rows(judged: ShardList, store: ObjectStore) -> dict[str, int]:
    """Returns the accepted images a pathology, having held every part's rows against its record's counts."""
    counts: Counter[str] = Counter()
    for record in judged.shards:
        accepted = read_parquet(get_content(store, record.manifest), ["pathology"])
        rejected = read_parquet(get_content(store, record.rejected), ["image_id"])
        _check_rows(record.manifest.relpath, len(accepted), record.counts.accepted)
        _check_rows(record.rejected.relpath, len(rejected), sum(record.counts.rejected.values()))
        for terms in accepted["pathology"].to_pylist():
            counts.update(terms or ["no finding"])
    return dict(counts.most_common())


def _check_rows(part: str, n_rows: int, counted: int) -> None:
    if n_rows != counted:
        raise IncompleteRunError(
            f"accounting is off: {part} holds {n_rows} rows, its record says {counted}; "
            f"delete the completion record of the shard and run again"
        )


def _account(path: Path, stage: str) -> dict[str, Any]:
    try:
        account: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run `medsynth {stage}` first") from error
    return account


def _corpus(paths: Paths) -> dict[str, Any]:
    about = _account(paths.corpus / "corpus.json", "corpus")
    return {key: about[key] for key in ("kind", "licence", "studies", "views")}


def _write_dir(store: ObjectStore, files: list[ObjectRef]) -> str:
    """Writes DVC's directory object, the JSON list of files sorted by path, and returns ``md5.dir``."""
    entries = [{"md5": ref.md5, "relpath": ref.relpath} for ref in sorted(files, key=lambda ref: ref.relpath)]
    data = json.dumps(entries, sort_keys=True).encode()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() + ".dir"
    store.put(content_key(md5), data)
    return md5


def _write_pointer(path: Path, dir_md5: str, n_bytes: int, n_files: int) -> None:
    out = {"md5": dir_md5, "size": n_bytes, "nfiles": n_files, "hash": "md5", "path": "dataset"}
    write_bytes_atomically(path, yaml.safe_dump({"outs": [out]}, sort_keys=False).encode())
