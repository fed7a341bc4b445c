"""The manifest: one Arrow schema, a row an image (contract C7). Changes only add columns.

Score columns are the filters' own (``filters``). The ``release`` column isn't stored in the parts, which are written
before a version exists; the reader adds it (docs/decisions/0003-release-column.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from medsynth_core.filters import COLUMNS as SCORES
from medsynth_core.storage.parquet import read_parquet

SCHEMA_VERSION = 1

_FINDING = pa.struct(
    [("pathology", pa.string()), ("anatomy", pa.string()), ("side", pa.string()), ("severity", pa.string())]
)
_SAMPLING = pa.struct(
    [("temperature", pa.float32()), ("top_p", pa.float32()), ("top_k", pa.int32()), ("guidance", pa.float32())]
)

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("image_id", pa.string(), "24 hex digits, derived from spec_hash, prompt id and sample number"),
    ("split", pa.string(), "train, val or test: what the release was made for"),
    ("shard", pa.string(), "tar that holds the image, relative to the release; null when rejected"),
    ("offset", pa.int64(), "first byte of the PNG in the tar; null when rejected"),
    ("size", pa.int64(), "bytes of the PNG"),
    ("sha256", pa.string(), "hex SHA-256 of the PNG's bytes"),
    ("width", pa.int32(), "pixels"),
    ("height", pa.int32(), "pixels"),
    ("prompt_id", pa.string(), "row of the prompt table"),
    ("prompt", pa.string(), "text that was synthesised from"),
    ("anatomy", pa.list_(pa.string()), "prompted anatomy terms"),
    ("pathology", pa.list_(pa.string()), "prompted pathology terms; empty for a normal chest"),
    ("labels", pa.list_(_FINDING), "prompted findings; prompted, not observed"),
    ("view", pa.string(), "frontal or lateral, as prompted"),
    ("sample", pa.int32(), "number of the image among those of its prompt"),
    ("seed", pa.int64(), "seed of the image's random stream"),
    ("keypatch_ids", pa.list_(pa.int32()), "entries of the visual codebook, best first"),
    ("keypatch_scores", pa.list_(pa.float32()), "cosine of each with the word that chose it"),
    ("keypatch_words", pa.list_(pa.string()), "word that chose each"),
    ("vqgan_sha256", pa.string(), "digest of the image tokeniser"),
    ("alignment_sha256", pa.string(), "digest of the alignment model and visual codebook"),
    ("llm_sha256", pa.string(), "digest of the language model"),
    (
        "judge_sha256",
        pa.string(),
        "digest of the labelling judge and of the training images: ``features`` of the same digest can be compared",
    ),
    ("sampling", _SAMPLING, "sampling settings"),
    *((score.name, pa.float32(), score.description) for score in SCORES),
    ("signature", pa.binary(), "16x16 uint8 thumbnail, for duplicates across shards"),
    (
        "features",
        pa.binary(),
        "what the labelling judge sees, float16, standardised; of images that the filters passed",
    ),
    ("verdict", pa.string(), "accepted or rejected"),
    ("reasons", pa.list_(pa.string()), "why rejected; empty when accepted"),
    ("synthetic", pa.bool_(), "always true"),
    ("generator", pa.string(), "medsynth"),
    ("generator_version", pa.string(), "version of medsynth"),
    ("spec_hash", pa.string(), "identity of everything that determines the image"),
)

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"description": text}) for name, kind, text in _COLUMNS],
    metadata={"medsynth_manifest_version": str(SCHEMA_VERSION)},
)
"""Columns in order; each field's metadata holds its description."""

MAY_BE_NULL = frozenset(
    {"shard", "offset", "features", "judge_sha256", "labels.anatomy", "labels.side", "labels.severity"}
    | {score.name for score in SCORES}
)
"""What is null in a row where it doesn't apply; a filter that isn't enabled, or was spared, leaves no score."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as a manifest table; a missing column is null.

    Raises:
        KeyError: a row has a column that the schema doesn't.
    """
    unknown = {key for row in rows for key in row} - set(SCHEMA.names)
    if unknown:
        raise KeyError(f"not in the manifest schema: {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def columns_of(names: Iterable[str]) -> pa.Schema:
    """Returns the schema of some columns, in this order."""
    return pa.schema([SCHEMA.field(name) for name in names])


def read_rows(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns (some columns of) a manifest part from Parquet bytes; a column that is younger than the part is null.

    Raises:
        pyarrow.ArrowException: the bytes are no Parquet.
    """
    return read_parquet(data, None if columns is None else columns_of(columns))
