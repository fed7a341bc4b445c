"""Verification of a release against its hashes and its accounting, one object in memory at a time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ArrowException

from medsynth_core.errors import CorruptObjectError, InputError, MedsynthError
from medsynth_core.manifest import SCHEMA, read_rows
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release, open_release
from medsynth_core.storage.content import check_content, md5_of_key
from medsynth_core.storage.index import read_entry

_ACCEPTED = ("image_id", "shard", "offset", "size", "sha256")
_REJECTED = ("image_id", "reasons")


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and every problem found, one line each: its kind, a colon, what is wrong where.

    The kinds are: damaged release, changed bytes, missing object, unreadable, wrong offset, changed image, image
    without row, row without image, duplicate id, accounting, wrong pointer, wrong version.
    """

    where: str
    n_files: int
    n_images: int
    n_bytes: int
    problems: tuple[str, ...]


def verify_at(repo: str, rev: str | None, progress: Progress) -> VerifyReport:
    """Opens a release and verifies it; one that is too damaged to be opened is reported as well.

    Raises:
        InputError: there is no release.
        StoreError, TransientError: the store can't be used.
    """
    try:
        release = open_release(repo, rev, withdrawn=True)
    except CorruptObjectError as error:
        return VerifyReport(f"{repo}@{rev}" if rev else repo, 0, 0, 0, (f"damaged release: {error}",))
    report = verify(release, progress)
    version = _version_problem(release, rev) if rev else None
    return report if version is None else VerifyReport(**{**vars(report), "problems": (*report.problems, version)})


def verify(release: Release, progress: Progress) -> VerifyReport:
    """Re-hashes every object, checks every image's place and hash, ids, accounting and the pointer.

    A folder without pointer has no MD5s: its images are still checked by the SHA-256 of their rows.
    """
    problems: list[str] = []
    parts: dict[tuple[str, ...], list[pa.Table]] = {_ACCEPTED: [], _REJECTED: []}
    complete = True
    n_bytes = 0
    names = sorted(release.files, key=lambda name: (name.endswith(".tar"), name))
    tars = [name for name in names if name.endswith(".tar")]
    for done, name in enumerate(names[: len(names) - len(tars)]):
        progress(done, len(names), name)
        data = _read(release, name, problems)
        n_bytes += len(data or b"")
        if name.endswith(".parquet"):
            columns = _ACCEPTED if name.startswith("manifest/") else _REJECTED
            table = _table(name, data, columns, problems) if data is not None else None
            parts[columns] += [table] if table is not None else []
            complete &= table is not None
        elif name == "release.json":
            complete &= data is not None
    rows, rejected = (_joined(parts[columns], columns) for columns in (_ACCEPTED, _REJECTED))
    rows = rows.take(pc.sort_indices(rows, [("shard", "ascending"), ("offset", "ascending")]))
    span = _spans(rows["shard"])
    for done, name in enumerate(tars, start=len(names) - len(tars)):
        progress(done, len(names), name)
        data = _read(release, name, problems)
        if data is not None:
            n_bytes += len(data)
            _check_shard(name, data, rows.slice(*span.get(name, (0, 0))).to_pylist(), complete, problems)
    for name in sorted(span.keys() - release.files.keys()):
        lost = rows.slice(*span[name])["image_id"].to_pylist()
        problems.extend(f"row without image: {identity}: no shard {name}" for identity in lost)
    if complete and "release.json" in release.files:
        _check_accounting(release.info["counts"], rows, rejected, problems)
    _check_pointer(release, len(names), n_bytes, problems)
    progress(len(names), len(names))
    return VerifyReport(release.where, len(names), len(rows), n_bytes, tuple(problems))


def _version_problem(release: Release, tag: str) -> str | None:
    """Returns in what a tag's record in the store names another dataset."""
    try:
        entry = read_entry(release.store, tag)
    except InputError:
        return None
    if entry.dir_md5 == release.dir_md5:
        return None
    return f"wrong version: the store's record of {tag} names {entry.dir_md5}, its pointer {release.dir_md5}"


def _read(release: Release, name: str, problems: list[str]) -> bytes | None:
    """Returns a file's bytes, or None when they are missing or changed, which is noted."""
    key = release.files[name]
    try:
        if release.store.size(key) is None:
            problems.append(f"missing object: {name} ({key})")
            return None
        data = release.store.get(key)
        return data if release.dir_md5 is None else check_content(data, md5_of_key(key), name)
    except CorruptObjectError as error:
        problems.append(f"changed bytes: {error}")
    except MedsynthError as error:
        problems.append(f"unreadable: {name} ({error})")
    return None


def _table(name: str, data: bytes, columns: tuple[str, ...], problems: list[str]) -> pa.Table | None:
    try:
        return read_rows(data, columns)
    except ArrowException as error:
        problems.append(f"unreadable: {name}: {str(error).splitlines()[0]}")
        return None


def _joined(parts: list[pa.Table], columns: tuple[str, ...]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table().select(list(columns)), *parts], promote_options="default")


def _spans(shards: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Returns (first row, rows) of each shard in a sorted column."""
    spans, first = {}, 0
    for name, n in sorted(Counter(str(shard) for shard in shards.to_pylist()).items()):
        spans[name] = first, n
        first += n
    return spans


def _check_shard(name: str, data: bytes, rows: list[dict[str, Any]], all_rows_known: bool, problems: list[str]) -> None:
    """Holds a shard's images against their rows."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = {member.name: (member.offset_data, member.size) for member in tar}
    except tarfile.TarError as error:
        problems.append(f"unreadable: {name}: not a tar ({str(error).splitlines()[0]})")
        return
    for row in rows:
        identity, offset, size = row["image_id"], row["offset"], row["size"]
        place = members.pop(f"{identity}.png", None)
        if place is None:
            problems.append(f"row without image: {identity}: not in {name}")
        elif place != (offset, size):
            problems.append(f"wrong offset: {identity}: not at byte {offset} of {name}")
        elif hashlib.sha256(data[offset : offset + size]).hexdigest() != row["sha256"]:
            problems.append(f"changed image: {identity} in {name}: SHA-256 differs from the manifest")
    if all_rows_known:
        problems.extend(f"image without row: {left} in {name}" for left in members if left.endswith(".png"))


def _check_accounting(counts: Mapping[str, Any], rows: pa.Table, rejected: pa.Table, problems: list[str]) -> None:
    ids = pa.chunked_array([*rows["image_id"].chunks, *rejected["image_id"].chunks], pa.string())
    for each in pc.value_counts(ids).filter(pc.greater(pc.struct_field(pc.value_counts(ids), "counts"), 1)).to_pylist():
        problems.append(f"duplicate id: {each['values']} stands {each['counts']} times")
    if len(rows) != counts["accepted"]:
        problems.append(f"accounting: {len(rows)} accepted rows, release.json says {counts['accepted']}")
    reasons = Counter(reasons[0] if reasons else "no reason" for reasons in rejected["reasons"].to_pylist())
    if reasons != Counter(counts["rejected"]):
        problems.append(f"accounting: rejected rows {dict(reasons)}, release.json says {counts['rejected']}")
    if counts["requested"] != counts["accepted"] + sum(counts["rejected"].values()) + sum(counts["failed"].values()):
        problems.append("accounting: requested differs from accepted + rejected + failed")


def _check_pointer(release: Release, n_files: int, n_bytes: int, problems: list[str]) -> None:
    """Holds the pointer's numbers against the files; its size only when all of them could be read."""
    if release.pointer.get("nfiles", n_files) != n_files:
        problems.append(f"wrong pointer: it says {release.pointer['nfiles']} files, the release has {n_files}")
    if not problems and release.pointer.get("size", n_bytes) != n_bytes:
        problems.append(f"wrong pointer: it says {release.pointer['size']} bytes, the release has {n_bytes}")
