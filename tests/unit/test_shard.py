import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest

from medsynth_core.manifest import SCHEMA, read_rows, table_of
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.parquet import ROWS_A_GROUP, parquet_bytes
from medsynth_core.storage.shard import ShardWriter


def shard(order: list[str]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    writer = ShardWriter()
    for name in order:
        writer.add(name, name.encode() * 50, {"prompt": name})
    return writer.finish()


def test_the_same_images_give_the_same_bytes() -> None:
    assert shard(["b", "a", "c"]) == shard(["c", "b", "a"])


def test_offsets_point_at_the_png_and_the_tar_is_plain() -> None:
    data, places = shard(["b", "a"])
    for name, (offset, size) in places.items():
        assert data[offset : offset + size] == name.encode() * 50
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["a.json", "a.png", "b.json", "b.png"]
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}
        assert json.loads(tar.extractfile("a.json").read()) == {"prompt": "a"}  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 20_000])
def test_the_tar_is_the_one_that_tarfile_writes(size: int) -> None:
    writer, members = ShardWriter(), {}
    for name in ("b", "a" * 24, "c"):
        writer.add_raw(name, bytes(size), name.encode())
        members |= {f"{name}.json": name.encode(), f"{name}.png": bytes(size)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    assert writer.finish()[0] == stream.getvalue()


def test_a_name_that_a_header_has_no_room_for_is_refused() -> None:
    writer = ShardWriter()
    writer.add_raw("x" * 96, b"", b"")
    with pytest.raises(ValueError, match="101 bytes"):
        writer.finish()


def test_a_manifest_round_trips_and_refuses_unknown_columns() -> None:
    rows = [{"image_id": "a", "pathology": ["mass"], "synthetic": True, "labels": []}]
    table = read_rows(parquet_bytes(table_of(rows)))
    assert table.schema.names == SCHEMA.names
    assert table.to_pylist()[0]["pathology"] == ["mass"]
    assert all(field.metadata[b"description"] for field in SCHEMA)
    with pytest.raises(KeyError, match="colour"):
        table_of([{"colour": 1}])


def test_row_groups_are_small_enough_for_the_hubs_viewer() -> None:
    words = [f"word{i}" for i in range(8)]
    finding = {"pathology": "pleural effusion", "anatomy": "costophrenic angle", "side": "left", "severity": "small"}
    row = {
        "prompt": "A sentence of a report, about as long as they are. " * 10,
        "anatomy": words,
        "pathology": words,
        "labels": [finding] * 4,
        "keypatch_ids": list(range(16)),
        "keypatch_scores": [0.5] * 16,
        "keypatch_words": words * 2,
        "signature": bytes(256),
        **{
            name: "0" * 64 for name in ("image_id", "shard", "sha256", "vqgan_sha256", "alignment_sha256", "llm_sha256")
        },
    }
    rows = [{**row, "prompt": f"{i} {row['prompt']}", "signature": i.to_bytes(256)} for i in range(ROWS_A_GROUP + 1)]
    about = pq.ParquetFile(io.BytesIO(parquet_bytes(table_of(rows)))).metadata
    sizes = [about.row_group(group).total_byte_size for group in range(about.num_row_groups)]
    assert len(sizes) == 2
    assert max(sizes) < 286 * 2**20 / 10, "the Hugging Face viewer reads row groups of 286 MiB, uncompressed"


def test_a_part_without_rows_has_no_row_group() -> None:
    data = parquet_bytes(table_of([]))
    assert pq.ParquetFile(io.BytesIO(data)).metadata.num_row_groups == 0
    assert read_rows(data).schema == SCHEMA


def test_counts_must_add_up() -> None:
    with pytest.raises(ValueError, match="requested 3"):
        Counts(requested=3, accepted=1, rejected={"a": 1})
    total = Counts(requested=2, accepted=1, rejected={"a": 1}) + Counts(requested=1, accepted=0, rejected={"a": 1})
    assert total == Counts(requested=3, accepted=1, rejected={"a": 2})
