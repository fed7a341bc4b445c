"""The pass over the whole release: copies across shards are dropped and everything stays accounted for."""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from medsynth_core.deduplicate.stage import DeduplicateReport
from medsynth_core.errors import InputError
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.manifest import read_rows, table_of
from medsynth_core.progress import silent
from medsynth_core.storage.completion import CompletionRecord, Counts
from medsynth_core.storage.content import get_content, put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.shard import ShardWriter
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis.worker import encode_png
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

CONFIG = Config()


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)


def looks(seed: int) -> bytes:
    """What the judge is made to see in an image."""
    return np.random.default_rng([seed, 1]).normal(size=4).astype(np.float16).tobytes()


def make_shard(store: LocalStore, shard: int, seeds: list[int], n_shards: int) -> CompletionRecord:
    """Uploads a shard of accepted images, one a seed, and one rejected before."""
    writer, rows, name = ShardWriter(), [], f"shards/shard-{shard:05d}.tar"
    for number, seed in enumerate(seeds):
        png = encode_png(image(seed))
        identity = f"{shard}-{number}"
        writer.add(identity, png, {"prompt": "made up"})
        row = {"image_id": identity, "size": len(png), "sha256": hashlib.sha256(png).hexdigest()}
        row |= {"features": looks(seed % 100), "judge_sha256": "j"}
        row |= {"signature": thumbnails(image(seed)[None])[0].tobytes(), "score_release_distance": 0.5}
        rows.append(row | {"verdict": "accepted", "reasons": []})
    tar, places = writer.finish()
    kept = [row | {"shard": name, "offset": places[row["image_id"]][0]} for row in rows]
    blank = {"image_id": f"{shard}-blank", "verdict": "rejected", "reasons": ["degenerate:blank"]}
    return CompletionRecord(
        run_id="run",
        shard=shard,
        n_shards=n_shards,
        tar=put_content(store, name, tar),
        manifest=put_content(store, f"manifest/part-{shard:05d}.parquet", parquet_bytes(table_of(kept))),
        rejected=put_content(store, f"rejected/part-{shard:05d}.parquet", parquet_bytes(table_of([blank]))),
        counts=Counts(requested=len(seeds) + 1, accepted=len(seeds), rejected={"degenerate:blank": 1}),
    )


def judged(
    root: Path, shards: list[list[int]], enabled: Sequence[str] = ("duplicate",)
) -> tuple[ShardList, DeduplicateReport]:
    paths, store = workspace_paths(root), LocalStore(root / "store")
    records = [make_shard(store, number, seeds, len(shards)) for number, seeds in enumerate(shards)]
    paths["synthesis"].mkdir(parents=True, exist_ok=True)
    total = reduce(add, (record.counts for record in records))
    made = ShardList(
        spec_hash="s",
        run_ids=("run",),
        parent=None,
        model_digests={"llm": "l"},
        judge_sha256="j",
        quality={"enabled": list(enabled)},
        bounds={"copy": 0.01, "copy_features": 0.5},
        shards=tuple(records),
        counts=total,
    )
    made.save(paths["synthesis"])
    report = perform("deduplicate", CONFIG, paths.root, silent, store)
    return ShardList.load(paths["deduplicate"], "deduplicate"), report


def test_a_copy_across_shards_goes_and_its_row_stays(tmp_path: Path) -> None:
    result, report = judged(tmp_path, [[1, 2], [3, 1], [4]])
    store = LocalStore(tmp_path / "store")
    assert (report.across_shards, report.repacked_shards) == (1, 1)
    assert result.counts == Counts(requested=8, accepted=4, rejected={"degenerate:blank": 3, "duplicate:release": 1})
    record = result.shards[1]
    assert record.rejected is not None
    rejected = read_rows(get_content(store, record.rejected)).to_pylist()
    assert [(row["image_id"], row["reasons"]) for row in rejected] == [
        ("1-1", ["duplicate:release"]),
        ("1-blank", ["degenerate:blank"]),
    ]
    lost = rejected[0]
    assert (lost["shard"], lost["offset"], lost["verdict"], lost["score_release_distance"]) == (
        None,
        None,
        "rejected",
        0,
    )


def test_a_shard_without_rejected_images_lists_its_first(tmp_path: Path) -> None:
    paths, store = workspace_paths(tmp_path), LocalStore(tmp_path / "store")
    judged(tmp_path, [[1], [2, 1]])
    made = ShardList.load(paths["synthesis"], "synthesis")
    alone = Counts(requested=2, accepted=2)
    clean = made.shards[1].model_copy(update={"rejected": None, "counts": alone})
    made.model_copy(update={"shards": (made.shards[0], clean), "counts": made.shards[0].counts + alone}).save(
        paths["synthesis"]
    )
    perform("deduplicate", CONFIG, paths.root, silent, store)
    part = ShardList.load(paths["deduplicate"], "deduplicate").shards[1].rejected
    assert part is not None
    assert part.relpath == "rejected/part-00001.parquet"
    assert read_rows(get_content(store, part))["image_id"].to_pylist() == ["1-1"]


def test_an_image_that_only_looks_alike_goes_by_that_reason(tmp_path: Path) -> None:
    result, _ = judged(tmp_path, [[1, 2], [101, 3]])
    assert result.counts.rejected == {"degenerate:blank": 2, "duplicate:alike": 1}
    part = result.shards[1].rejected
    assert part is not None
    (lost, _) = read_rows(get_content(LocalStore(tmp_path / "store"), part)).to_pylist()
    assert (lost["image_id"], lost["reasons"]) == ("1-0", ["duplicate:alike"])
    assert lost["score_release_features"] < 0.01
    assert lost["score_release_distance"] == 0.5, "that of its shard"


def test_what_stays_is_found_at_its_offset_with_its_hash(tmp_path: Path) -> None:
    result, _ = judged(tmp_path, [[1], [1, 5, 2, 6]])
    store = LocalStore(tmp_path / "store")
    record = result.shards[1]
    assert record.tar is not None
    tar = get_content(store, record.tar)
    rows = read_rows(get_content(store, record.manifest)).to_pylist()
    assert [row["image_id"] for row in rows] == ["1-1", "1-2", "1-3"]
    for row in rows:
        png = tar[row["offset"] : row["offset"] + row["size"]]
        assert hashlib.sha256(png).hexdigest() == row["sha256"]
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert opened.getnames() == [f"1-{n}.{suffix}" for n in (1, 2, 3) for suffix in ("json", "png")]


def test_shards_without_copies_are_the_same_objects(tmp_path: Path) -> None:
    result, report = judged(tmp_path, [[1, 2], [3]])
    made = ShardList.load(workspace_paths(tmp_path)["synthesis"], "synthesis")
    assert result == made
    assert report.across_shards == 0


def test_a_shard_that_loses_everything_has_no_tar(tmp_path: Path) -> None:
    result, _ = judged(tmp_path, [[1], [1]])
    assert result.shards[1].tar is None
    assert result.shards[1].counts.accepted == 0


def test_the_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    judged(tmp_path, [[1, 2], [2, 1]])
    before = (workspace_paths(tmp_path)["deduplicate"] / "shards.json").read_bytes()
    judged(tmp_path, [[1, 2], [2, 1]])
    assert (workspace_paths(tmp_path)["deduplicate"] / "shards.json").read_bytes() == before


def test_a_disabled_filter_drops_nothing(tmp_path: Path) -> None:
    _, report = judged(tmp_path, [[1], [1]], ["degenerate"])
    assert report.across_shards == 0


def test_without_synthesis_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `medsynth synthesis` first"):
        perform("deduplicate", CONFIG, tmp_path, silent, LocalStore(tmp_path / "store"))
