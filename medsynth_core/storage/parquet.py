"""Tables as Parquet bytes."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_GROUP = 5000


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns a table as Parquet with small row groups; the same rows give the same bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_statistics=True) as writer:
        if len(table):  # Hugging Face's datasets fails on a row group without rows
            writer.write_table(table, row_group_size=ROWS_A_GROUP)
    return sink.getvalue()


def read_parquet(data: bytes, wanted: pa.Schema | None = None) -> pa.Table:
    """Returns a table from Parquet bytes: the wanted columns, null where the bytes lack one; all of it when None.

    Raises:
        pyarrow.ArrowException: the bytes are no Parquet.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    if wanted is None:
        return file.read()
    table = file.read([name for name in wanted.names if name in file.schema_arrow.names])
    for field in wanted:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(wanted.names)
