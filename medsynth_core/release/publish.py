"""The release stage: finished shards in, a DVC-versioned dataset out, without moving an image again.

Shards already stand at their final places in the DVC remote; a release adds ``release.json``, its description, the
``.dir`` object that lists all files, and the pointer ``dataset.dvc`` in the workspace (contract C4).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from medsynth_core import __version__
from medsynth_core.config import Config, Paths
from medsynth_core.errors import IncompleteRunError, InputError
from medsynth_core.progress import Progress
from medsynth_core.release.describe import describe
from medsynth_core.storage.atomic import replace_directory, write_bytes_atomically
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import ObjectRef, content_key, get_content, put_content
from medsynth_core.storage.manifest import SCHEMA_VERSION, read_parquet
from medsynth_core.storage.parent import KeptObject, Parent, open_parent
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

STAGE_VERSION = 2
_AT_ONCE = 16
"""Requests to the store."""
_DISTRIBUTIONS = ("pathologies", "sides", "severities", "views")


@dataclass(frozen=True)
class ReleaseReport:
    """What was released.

    Attributes:
        dir_md5: hash of the dataset in DVC's terms, ``....dir``.
        counts: requested, accepted, rejected and failed, the parent's included.
        parent: the release that was added to (tag, dir_md5, images) and how many images were added; or None.
    """

    name: str
    dir_md5: str
    n_files: int
    n_bytes: int
    counts: dict[str, Any]
    parent: dict[str, Any] | None


def run(config: Config, paths: Paths, store: ObjectStore, progress: Progress) -> ReleaseReport:
    """Checks the accounting, writes the dataset's small files to the store and the pointer to the workspace.

    A release with a parent lists the parent's objects beside its own; none is read or written again.

    Raises:
        InputError: there is no judged run, corpus or prompt account, or no such parent.
        IncompleteRunError: the sums are off, shards, rows or objects are missing, or no image was accepted.
        CorruptObjectError: a manifest part's bytes don't match its record.
    """
    judged = ShardList.load(paths.quality, "quality")
    prompts = _account(paths.prompts / "account.json", "prompts")
    _check_accounting(judged)
    parent = open_parent(store, judged.parent) if judged.parent is not None else None
    files = _check_objects([*(parent.kept if parent else ()), *_own_files(judged)], store, progress)
    labels = _count_labels(judged, store)
    about: dict[str, Any] = {
        "name": config.release.name,
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "generator": "medsynth",
        "generator_version": __version__,
        "spec_hash": judged.spec_hash,
        "model_digests": judged.model_digests,
        "counts": judged.counts.model_dump(mode="json"),
        "prompts": {key: prompts[key] for key in ("provider", "requested", "accepted", "rejected")},
        "corpus": _corpus(paths),
        **labels,
        "image_size": config.corpus.image_size,
        "sampling": config.synthesis.model_dump(mode="json"),
        "quality": config.quality.model_dump(mode="json"),
        "bounds": judged.bounds,
        "parent": None,
        "runs": [{"spec_hash": judged.spec_hash, "run_ids": judged.run_ids, "model_digests": judged.model_digests}],
        "release": config.release.model_dump(mode="json"),
        "own_models": config.models.path is None,
    }
    if parent is not None:
        _add_parent(about, parent)
    text = (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()
    files.append(put_content(store, "release.json", text))
    files.extend([put_content(store, name, data) for name, data in describe(about, files).items()])
    dir_md5 = _write_dir(store, files)
    n_bytes = sum(ref.size for ref in files)
    _write_pointer(paths.root / "dataset.dvc", dir_md5, n_bytes, len(files))
    report = ReleaseReport(config.release.name, dir_md5, len(files), n_bytes, about["counts"], about["parent"])
    with replace_directory(paths.release) as folder:
        (folder / "release.json").write_bytes(text)
        (folder / "dataset.json").write_text(
            json.dumps({"dir_md5": dir_md5, "n_files": len(files), "n_bytes": n_bytes}, indent=2) + "\n", "utf-8"
        )
    progress(len(files), len(files))
    return report


def _check_accounting(judged: ShardList) -> None:
    """Every record's own sum was checked when it was read; here they must be all of each round and add up."""
    for run_id in judged.run_ids:
        records = [record for record in judged.shards if record.run_id == run_id]
        numbers = [record.shard for record in records]
        expected = records[0].n_shards if records else 1
        if numbers != list(range(expected)):
            raise IncompleteRunError(
                f"run {run_id}: shards.json lists shards {numbers} of {expected}; expected each once; run "
                f"`medsynth synthesis` and `medsynth quality` again"
            )
    foreign = {record.run_id for record in judged.shards} - set(judged.run_ids)
    if foreign:
        raise IncompleteRunError(
            f"shards.json lists shards of {', '.join(sorted(foreign))}, which is none of its runs; run "
            f"`medsynth synthesis` and `medsynth quality` again"
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


def _own_files(judged: ShardList) -> list[ObjectRef]:
    return [
        ref for record in judged.shards for ref in (record.tar, record.manifest, record.rejected) if ref is not None
    ]


def _check_objects(
    expected: Sequence[ObjectRef | KeptObject], store: ObjectStore, progress: Progress
) -> list[ObjectRef]:
    """Returns the objects with their sizes, having asked the store for each."""
    twice = [path for path, n in Counter(ref.relpath for ref in expected).items() if n > 1]
    if twice:
        raise IncompleteRunError(f"{twice[0]} stands twice in the release; its shards are the parent's already")
    files = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sizes = pool.map(lambda ref: store.size(content_key(ref.md5)), expected)
        for done, (ref, size) in enumerate(zip(expected, sizes, strict=True)):
            if size is None or (isinstance(ref, ObjectRef) and size != ref.size):
                advice = (
                    "delete the completion record of its shard and run again"
                    if isinstance(ref, ObjectRef)
                    else "it is of the parent: restore it, or name another release.parent"
                )
                raise IncompleteRunError(
                    f"{store.url}: {ref.relpath} ({content_key(ref.md5)}) is missing or has another size; {advice}"
                )
            files.append(ObjectRef(relpath=ref.relpath, md5=ref.md5, size=size))
            progress(done, len(expected), "checking objects")
    return files


def _count_labels(judged: ShardList, store: ObjectStore) -> dict[str, dict[str, int]]:
    """Returns the accepted images a pathology, side, severity and view, having held every part's rows against its
    record's counts."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _DISTRIBUTIONS}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for record, accepted, n_rejected in pool.map(lambda record: _rows(record, store), judged.shards):
            _check_rows(record.manifest.relpath, len(accepted), record.counts.accepted)
            _check_rows(record.rejected.relpath, n_rejected, sum(record.counts.rejected.values()))
            for labels, view in zip(accepted["labels"].to_pylist(), accepted["view"].to_pylist(), strict=True):
                counts["pathologies"].update({label["pathology"] for label in labels} or ["no finding"])
                counts["sides"].update(label["side"] for label in labels)
                counts["severities"].update(label["severity"] or "none" for label in labels)
                counts["views"][view or "unknown"] += 1
    return {name: _commonest_first(count) for name, count in counts.items()}


def _rows(record: CompletionRecord, store: ObjectStore) -> tuple[CompletionRecord, pa.Table, int]:
    accepted = read_parquet(get_content(store, record.manifest), ["labels", "view"])
    return record, accepted, len(read_parquet(get_content(store, record.rejected), ["image_id"]))


def _commonest_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _add_parent(about: dict[str, Any], parent: Parent) -> None:
    """Adds what the parent holds to the counts of what was made now."""
    before, added = parent.info, about["counts"]["accepted"]
    about["parent"] = {
        "tag": parent.entry.tag,
        "dir_md5": parent.entry.dir_md5,
        "images": before["counts"]["accepted"],
        "added": added,
    }
    about["runs"] = [*before["runs"], *about["runs"]]
    about["counts"] = (Counts.model_validate(before["counts"]) + Counts.model_validate(about["counts"])).model_dump(
        mode="json"
    )
    for name in _DISTRIBUTIONS:
        about[name] = _commonest_first(Counter(before[name]) + Counter(about[name]))


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
