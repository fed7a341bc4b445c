"""Verification of a release against its hashes and its accounting, one object in memory at a time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyarrow import ArrowException

from medsynth_core.errors import CorruptObjectError, MedsynthError
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release
from medsynth_core.storage.content import check_content, md5_of_key
from medsynth_core.storage.manifest import read_parquet

Row = Mapping[str, Any]


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and every problem found, one line each."""

    n_files: int
    n_images: int
    problems: tuple[str, ...]


def verify(release: Release, progress: Progress) -> VerifyReport:
    """Re-hashes every object, checks every image's place and hash, ids and accounting.

    A folder without pointer has no MD5s: its images are still checked by the SHA-256 of their rows.
    """
    problems: list[str] = []
    rows: list[Row] = []
    rejected: list[Row] = []
    readable = True
    names = sorted(release.files, key=lambda name: (name.endswith(".tar"), name))
    tars = [name for name in names if name.endswith(".tar")]
    for done, name in enumerate(names[: len(names) - len(tars)]):
        progress(done, len(names), name)
        data = _read(release, name, problems)
        if not name.endswith(".parquet"):
            readable &= data is not None or name != "release.json"
            continue
        part, columns = (rows, _ACCEPTED) if name.startswith("manifest/") else (rejected, _REJECTED)
        try:
            part.extend(read_parquet(data, columns).to_pylist() if data is not None else ())
        except ArrowException as error:
            problems.append(f"unreadable: {name}: {str(error).splitlines()[0]}")
            data = None
        readable &= data is not None
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        rows_of[str(row["shard"])].append(row)
    for done, name in enumerate(tars, start=len(names) - len(tars)):
        progress(done, len(names), name)
        data = _read(release, name, problems)
        if data is not None:
            _check_shard(name, data, rows_of[name], readable, problems)
    for name in sorted(rows_of.keys() - release.files.keys()):
        problems.extend(f"row without image: {row['image_id']}: no shard {name}" for row in rows_of[name])
    if readable:
        _check_accounting(release.info["counts"], rows, rejected, problems)
    progress(len(names), len(names))
    return VerifyReport(len(names), len(rows), tuple(problems))


_ACCEPTED = ("image_id", "shard", "offset", "size", "sha256")
_REJECTED = ("image_id", "reasons")


def _read(release: Release, name: str, problems: list[str]) -> bytes | None:
    """Returns a file's bytes, or None when they are missing or changed, which is noted."""
    key = release.files[name]
    try:
        data = release.store.get(key)
        return data if release.dir_md5 is None else check_content(data, md5_of_key(key), name)
    except CorruptObjectError as error:
        problems.append(f"changed bytes: {error}")
    except MedsynthError as error:
        problems.append(f"missing object: {name} ({error})")
    return None


def _check_shard(name: str, data: bytes, rows: list[Row], all_rows_known: bool, problems: list[str]) -> None:
    """Holds a shard's images against their rows."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = {member.name: (member.offset_data, member.size) for member in tar}
    except tarfile.TarError as error:
        problems.append(f"unreadable: {name}: not a tar ({str(error).splitlines()[0]})")
        return
    for row in rows:
        identity, offset, size = row["image_id"], row["offset"], row["size"]
        if members.pop(f"{identity}.png", None) != (offset, size):
            problems.append(f"wrong offset: {identity}: not at byte {offset} of {name}")
        elif hashlib.sha256(data[offset : offset + size]).hexdigest() != row["sha256"]:
            problems.append(f"changed image: {identity} in {name}: SHA-256 differs from the manifest")
    if all_rows_known:
        problems.extend(f"image without row: {left} in {name}" for left in members if left.endswith(".png"))


def _check_accounting(counts: Mapping[str, Any], rows: list[Row], rejected: list[Row], problems: list[str]) -> None:
    for identity, n in Counter(row["image_id"] for row in (*rows, *rejected)).items():
        if n > 1:
            problems.append(f"duplicate id: {identity} stands {n} times")
    if len(rows) != counts["accepted"]:
        problems.append(f"accounting: {len(rows)} accepted rows, release.json says {counts['accepted']}")
    reasons = Counter(row["reasons"][0] if row["reasons"] else "no reason" for row in rejected)
    if reasons != Counter(counts["rejected"]):
        problems.append(f"accounting: rejected rows {dict(reasons)}, release.json says {counts['rejected']}")
    if counts["requested"] != counts["accepted"] + sum(counts["rejected"].values()) + sum(counts["failed"].values()):
        problems.append("accounting: requested differs from accepted + rejected + failed")
