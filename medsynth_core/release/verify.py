"""Verification of a release against its hashes and its accounting."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import dataclass

from medsynth_core.errors import MedsynthError
from medsynth_core.progress import Progress
from medsynth_core.release.reader import Release


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and every problem found, one line each."""

    n_files: int
    n_images: int
    problems: tuple[str, ...]


def verify(release: Release, progress: Progress) -> VerifyReport:
    """Re-hashes every object, checks every image's place and hash, ids and accounting."""
    problems: list[str] = []
    damaged: set[str] = set()
    contents: dict[str, bytes] = {}
    for done, (path, key) in enumerate(sorted(release.files.items())):
        progress(done, len(release.files), path)
        try:
            data = release.store.get(key)
        except MedsynthError as error:
            problems.append(f"missing object: {path} ({error})")
            damaged.add(path)
            continue
        expected = key.removeprefix("files/md5/").replace("/", "")
        if release.dir_md5 is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() != expected:
            problems.append(f"changed bytes: {path}: MD5 differs from {expected}")
            damaged.add(path)
        if path.endswith(".tar"):
            contents[path] = data
    readable = not any(path.endswith((".parquet", ".json")) for path in damaged)
    n_images = 0
    if readable:
        n_images = _check_images(release, contents, damaged, problems)
    progress(len(release.files), len(release.files))
    return VerifyReport(len(release.files), n_images, tuple(problems))


def _check_images(release: Release, tars: dict[str, bytes], damaged: set[str], problems: list[str]) -> int:
    columns = ["image_id", "shard", "offset", "size", "sha256"]
    rows = release.manifest(columns).to_pylist()
    rejected = release.rejected(["image_id"])["image_id"].to_pylist()
    for identity, n in Counter([row["image_id"] for row in rows] + rejected).items():
        if n > 1:
            problems.append(f"duplicate id: {identity} stands {n} times")
    members = {name: _members(data) for name, data in tars.items() if name not in damaged}
    for row in rows:
        name = row["shard"]
        if name in damaged:
            continue
        if name not in members:
            problems.append(f"row without image: {row['image_id']}: no shard {name}")
            continue
        data = tars[name][row["offset"] : row["offset"] + row["size"]]
        if members[name].pop(f"{row['image_id']}.png", None) != (row["offset"], row["size"]):
            problems.append(f"wrong offset: {row['image_id']}: not at byte {row['offset']} of {name}")
        elif hashlib.sha256(data).hexdigest() != row["sha256"]:
            problems.append(f"changed image: {row['image_id']}: SHA-256 differs from the manifest")
    for name, left in members.items():
        problems.extend(f"image without row: {member} in {name}" for member in left if member.endswith(".png"))
    counts = release.info["counts"]
    if len(rows) != counts["accepted"]:
        problems.append(f"accounting: {len(rows)} accepted rows, release.json says {counts['accepted']}")
    if len(rejected) != sum(counts["rejected"].values()):
        problems.append(f"accounting: {len(rejected)} rejected rows, release.json says {counts['rejected']}")
    if counts["requested"] != counts["accepted"] + sum(counts["rejected"].values()) + sum(counts["failed"].values()):
        problems.append("accounting: requested differs from accepted + rejected + failed")
    return len(rows)


def _members(data: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}
