"""The release stage: finished shards in, a DVC-versioned dataset out, without moving an image again.

Shards already stand at their final places in the DVC remote; a release adds ``release.json``, its description, the
``.dir`` object that lists all files, and the pointer ``dataset.dvc`` in the workspace (contract C4).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from medsynth_core import __version__
from medsynth_core.config import Paths
from medsynth_core.errors import IncompleteRunError, InputError, StoreError
from medsynth_core.fidelity.floors import keep_floors
from medsynth_core.judging.measured import read_measured
from medsynth_core.manifest import SCHEMA_VERSION, read_rows
from medsynth_core.privacy.risk import keep_limits
from medsynth_core.progress import Progress
from medsynth_core.release.describe import describe
from medsynth_core.release.settings import ReleaseParams
from medsynth_core.storage.atomic import replace_directory, write_bytes_atomically
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import CONTENT, ObjectRef, content_key, get_content, put_content
from medsynth_core.storage.parent import KeptObject, Parent, open_parent
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore

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


def run(params: ReleaseParams, paths: Paths, store: ObjectStore, progress: Progress) -> ReleaseReport:
    """Checks the accounting, writes the dataset's small files to the store and the pointer to the workspace.

    A release with a parent lists the parent's objects beside its own; none is read or written again.

    Raises:
        InputError: there is no judged run, privacy or fidelity report, corpus or prompt account, or no such parent.
        RiskError: the images give away more of the training images than ``privacy.limits`` allows.
        FidelityError: the images look less like real films than ``release.min_fidelity`` demands.
        IncompleteRunError: the sums are off, shards, rows or objects are missing, or no image was accepted.
        CorruptObjectError: a manifest part's bytes don't match its record.
    """
    judged = ShardList.load(paths["deduplicate"], "deduplicate")
    _check_accounting(judged)
    measured = _within_limits(params, paths)
    parent = open_parent(store, judged.parent) if judged.parent is not None else None
    listed, parts = _listed_objects(judged, parent)
    labels = _count_labels(judged, store)
    files = [*_check_objects(listed, store, progress), *parts]
    about = _about(params, paths, judged, labels, measured)
    if parent is not None:
        _add_parent(about, parent)
    text = (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()
    files.append(put_content(store, "release.json", text))
    files.extend([put_content(store, name, data) for name, data in describe(about, files).items()])
    report = _published(params.release.name, about, files, _write_dir(store, files))
    _write_pointer(paths.dataset.with_suffix(".dvc"), report)
    _write_folder(paths["release"], text, report)
    progress(len(files), len(files))
    return report


def _within_limits(params: ReleaseParams, paths: Paths) -> dict[str, dict[str, Any]]:
    """Returns what the images give away and how real they look, by the stages of these names, within the limits."""
    shards = paths.digests.file(paths["deduplicate"] / "shards.json")
    found = {stage: read_measured(stage, paths[stage], shards) for stage in ("privacy", "fidelity")}
    kept = {
        "privacy": keep_limits(found["privacy"]["figures"], params.limits),
        "fidelity": keep_floors(found["fidelity"]["figures"], params.release.min_fidelity),
    }
    measured = {stage: {**about, "figures": kept[stage]} for stage, about in found.items()}
    measured["fidelity"]["low_diversity"] = params.release.low_diversity
    return measured


def _listed_objects(judged: ShardList, parent: Parent | None) -> tuple[list[ObjectRef | KeptObject], list[ObjectRef]]:
    """Returns the objects whose sizes the store must be asked for, and the manifest parts, which are read whole."""
    kept = parent.kept if parent is not None else ()
    tars = [record.tar for record in judged.shards if record.tar is not None]
    parts = [part for record in judged.shards for part in (record.manifest, record.rejected) if part is not None]
    _check_paths([*kept, *tars, *parts])
    return [*kept, *tars], parts


def _about(
    params: ReleaseParams,
    paths: Paths,
    judged: ShardList,
    labels: dict[str, dict[str, int]],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns ``release.json``, without what a parent adds."""
    prompts = _account(paths["prompts"] / "account.json", "prompts")
    corpus = _account(paths["corpus"] / "corpus.json", "corpus")
    return {
        "name": params.release.name,
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "generator": "medsynth",
        "generator_version": __version__,
        "spec_hash": judged.spec_hash,
        "model_digests": judged.model_digests,
        "counts": judged.counts.model_dump(mode="json"),
        "prompts": {key: prompts[key] for key in ("provider", "requested", "accepted", "rejected")},
        "corpus": {key: corpus[key] for key in ("kind", "licence", "studies", "views")},
        **labels,
        "image_size": corpus["image_size"],
        "sampling": params.sampling,
        "quality": judged.quality,
        "bounds": judged.bounds,
        **measured,
        "parent": None,
        "runs": [{"spec_hash": judged.spec_hash, "run_ids": judged.run_ids, "model_digests": judged.model_digests}],
        "release": params.release.model_dump(mode="json"),
        "own_models": params.models_path is None,
    }


def _published(name: str, about: Mapping[str, Any], files: Sequence[ObjectRef], dir_md5: str) -> ReleaseReport:
    n_bytes = sum(ref.size for ref in files)
    return ReleaseReport(name, dir_md5, len(files), n_bytes, about["counts"], about["parent"])


def _write_folder(folder: Path, text: bytes, report: ReleaseReport) -> None:
    """Writes ``release.json`` and how the dataset is called in the store."""
    dataset = {"dir_md5": report.dir_md5, "n_files": report.n_files, "n_bytes": report.n_bytes}
    with replace_directory(folder) as fresh:
        (fresh / "release.json").write_bytes(text)
        (fresh / "dataset.json").write_text(json.dumps(dataset, indent=2) + "\n", "utf-8")


def _check_accounting(judged: ShardList) -> None:
    """Every record's own sum was checked when it was read; here they must be all of each round and add up."""
    for run_id in judged.run_ids:
        records = [record for record in judged.shards if record.run_id == run_id]
        numbers = [record.shard for record in records]
        expected = records[0].n_shards if records else 1
        if numbers != list(range(expected)):
            raise IncompleteRunError(
                f"run {run_id}: shards.json lists shards {numbers} of {expected}; expected each once; run "
                f"`medsynth synthesis` and `medsynth deduplicate` again"
            )
    foreign = {record.run_id for record in judged.shards} - set(judged.run_ids)
    if foreign:
        raise IncompleteRunError(
            f"shards.json lists shards of {', '.join(sorted(foreign))}, which is none of its runs; run "
            f"`medsynth synthesis` and `medsynth deduplicate` again"
        )
    requested = sum(record.counts.requested for record in judged.shards)
    accepted = sum(record.counts.accepted for record in judged.shards)
    if (requested, accepted) != (judged.counts.requested, judged.counts.accepted):
        raise IncompleteRunError(
            f"accounting is off: shards sum to {accepted} of {requested}, shards.json says "
            f"{judged.counts.accepted} of {judged.counts.requested}; run `medsynth deduplicate` again"
        )
    if not accepted:
        reasons = ", ".join(f"{reason} {n}" for reason, n in judged.counts.rejected.items())
        raise IncompleteRunError(
            f"no image was accepted of {requested} ({reasons}); train longer or loosen the filters"
        )


def _check_paths(expected: Sequence[ObjectRef | KeptObject]) -> None:
    twice = [path for path, n in Counter(ref.relpath for ref in expected).items() if n > 1]
    if twice:
        raise IncompleteRunError(f"{twice[0]} stands twice in the release; its shards are the parent's already")


def _check_objects(
    expected: Sequence[ObjectRef | KeptObject], store: ObjectStore, progress: Progress
) -> list[ObjectRef]:
    """Returns the objects with their sizes, having asked the store for each."""
    files, sizes = [], dict[str, int | None]()
    distinct = {content_key(ref.md5) for ref in expected}
    for key, found in store.sizes(CONTENT, sorted(distinct)):
        sizes[key] = found
        progress(len(sizes), len(distinct), "checking objects")
    for ref in expected:
        size = sizes[content_key(ref.md5)]
        if size is None or (isinstance(ref, ObjectRef) and size != ref.size):
            raise _missing(ref, store)
        files.append(ObjectRef(relpath=ref.relpath, md5=ref.md5, size=size))
    return files


def _missing(ref: ObjectRef | KeptObject, store: ObjectStore) -> IncompleteRunError:
    advice = (
        "delete the completion record of its shard and run again"
        if isinstance(ref, ObjectRef)
        else "it is of the parent: restore it, or name another release.parent"
    )
    return IncompleteRunError(
        f"{store.url}: {ref.relpath} ({content_key(ref.md5)}) is missing or has another size; {advice}"
    )


def _count_labels(judged: ShardList, store: ObjectStore) -> dict[str, dict[str, int]]:
    """Returns the accepted images a pathology, side, severity and view, having held every part's rows against its
    record's counts."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _DISTRIBUTIONS}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        listed = [(record.rejected, record.counts) for record in judged.shards if record.rejected is not None]
        n_rows = pool.map(lambda each: len(_read_part(each[0], store, ["image_id"])), listed)
        for (part, counted), found in zip(listed, n_rows, strict=True):
            _check_rows(part, found, sum(counted.rejected.values()))
        for of_part in pool.map(lambda record: _label_counts(record, store), judged.shards):
            for name, count in of_part.items():
                counts[name].update(count)
    return {name: _commonest_first(count) for name, count in counts.items()}


def _read_part(part: ObjectRef, store: ObjectStore, columns: Sequence[str]) -> pa.Table:
    try:
        return read_rows(get_content(store, part), columns)
    except StoreError as error:
        if store.size(content_key(part.md5)) is None:
            raise _missing(part, store) from error
        raise


def _label_counts(record: CompletionRecord, store: ObjectStore) -> dict[str, dict[str, int]]:
    """Returns the counts of one part's rows, which are as many as its record says."""
    rows = _read_part(record.manifest, store, ["labels", "view"])
    _check_rows(record.manifest, len(rows), record.counts.accepted)
    lists = rows["labels"].combine_chunks()
    findings = pc.list_flatten(lists)
    pathology, side, severity = (pc.struct_field(findings, name) for name in ("pathology", "side", "severity"))
    a_row = pa.table({"row": pc.list_parent_indices(lists), "pathology": pathology})
    normal = len(rows) - pc.sum(pc.greater(pc.list_value_length(lists), 0), min_count=0).as_py()
    return {
        "pathologies": _counted(a_row.group_by(["row", "pathology"], use_threads=False).aggregate([])["pathology"])
        | ({"no finding": normal} if normal else {}),
        "sides": _counted(side),
        "severities": _counted(pc.fill_null(severity, "none")),
        "views": _counted(pc.fill_null(rows["view"], "unknown")),
    }


def _counted(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}


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


def _check_rows(part: ObjectRef, n_rows: int, counted: int) -> None:
    if n_rows != counted:
        raise IncompleteRunError(
            f"accounting is off: {part.relpath} holds {n_rows} rows, its record says {counted}; "
            f"delete the completion record of the shard and run again"
        )


def _account(path: Path, stage: str) -> dict[str, Any]:
    try:
        account: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run `medsynth {stage}` first") from error
    return account


def _write_dir(store: ObjectStore, files: list[ObjectRef]) -> str:
    """Writes DVC's directory object, the JSON list of files sorted by path, and returns ``md5.dir``."""
    entries = [{"md5": ref.md5, "relpath": ref.relpath} for ref in sorted(files, key=lambda ref: ref.relpath)]
    data = json.dumps(entries, sort_keys=True).encode()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() + ".dir"
    store.put(content_key(md5), data)
    return md5


def _write_pointer(path: Path, report: ReleaseReport) -> None:
    out = {
        "md5": report.dir_md5,
        "size": report.n_bytes,
        "nfiles": report.n_files,
        "hash": "md5",
        "path": "dataset",
    }
    write_bytes_atomically(path, yaml.safe_dump({"outs": [out]}, sort_keys=False).encode())
