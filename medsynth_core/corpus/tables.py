"""Tables as people have them: any delimiter, encoding and compression, and rows that don't fit, one by one."""

from __future__ import annotations

import codecs
import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from medsynth_core.corpus.places import opened_in_parts, opened_uncompressed
from medsynth_core.corpus.records import BadRow
from medsynth_core.errors import InputError
from medsynth_core.nearest import did_you_mean

log = logging.getLogger(__name__)

_PARQUET = (".parquet", ".pq")
_EXCEL = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_BINARY = {b"PAR1": "Parquet; call it .parquet", b"PK\x03\x04": "a zip or an Excel file; save it as CSV in UTF-8"}
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What is raised for a file that is cut off or isn't what its name says."""
_PACKED = (".gz", ".zip", ".bz2", ".xz")
_DELIMITERS = ",\t;|"
_HEAD = 64 * 1024
"""Bytes that hold a table's first line."""
_BLOCK = 4 * 1024 * 1024
_BLANK = ("nan", "none", "null", "n/a", "na", "<na>", "nat", "#n/a", "nil")
"""What programs write for a cell without a value."""
_WAS_A_NUMBER = r"^\d+\.0$"
_PATIENTS = frozenset({"patient", "patientid", "subject", "subjectid", "patientkey", "pid", "mrn", "patientnumber"})


@dataclass(frozen=True)
class Table:
    """The columns that were asked for, as text, "" for an empty cell.

    Attributes:
        numbers: int64, the row of the file that each row is, the header's being 1.
        bad: rows that have more or fewer cells than the header.
    """

    path: Path
    data: pa.Table
    numbers: npt.NDArray[np.int64]
    bad: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.data.column_names)

    def column(self, name: str) -> list[str]:
        """Returns a column's cells."""
        cells: list[str] = self.data[name].to_pylist()
        return cells

    def some(self, name: str, most: int = 2000) -> list[str]:
        """Returns the first cells of a column that aren't empty."""
        cells: list[str] = self.data[name].filter(pc.not_equal(self.data[name], "")).slice(0, most).to_pylist()
        return cells

    def repeated(self, name: str) -> frozenset[str]:
        """Returns what several cells of a column hold."""
        counts = pc.value_counts(self.data[name].combine_chunks())
        return frozenset(counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist())

    def head(self, n: int | None) -> Table:
        """Returns the first ``n`` rows, all when None."""
        if n is None or n >= len(self):
            return self
        return Table(self.path, self.data.slice(0, n), self.numbers[:n], self.bad)

    def where(self, kept: npt.NDArray[np.bool_]) -> Table:
        """Returns the rows for which ``kept``, bool [rows], is true."""
        return Table(self.path, self.data.filter(pa.array(kept)), self.numbers[kept], self.bad)

    def row(self, index: int) -> dict[str, str]:
        """Returns a row's cells by column."""
        return {name: self.data[name][index].as_py() for name in self.columns}

    def rows(self, batch: int = 500) -> Iterator[tuple[int, dict[str, str]]]:
        """Yields each row's number in the file and its cells."""
        start = 0
        for part in self.data.to_batches(batch):
            for index, row in enumerate(part.to_pylist()):
                yield int(self.numbers[start + index]), row
            start += part.num_rows

    def groups(self, column: str | None) -> Iterator[list[tuple[int, dict[str, str]]]]:
        """Yields the rows of each value of a column, groups in the order of their first rows; each row alone when
        None."""
        if column is None:
            for row in self.rows():
                yield [row]
            return
        codes = self.data[column].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        ordered = self.data.take(pa.array(order))
        sorted_rows = Table(self.path, ordered, self.numbers[order]).rows()
        group: list[tuple[int, dict[str, str]]] = []
        for row in sorted_rows:
            if group and row[1][column] != group[0][1][column]:
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def whole(self, column: str) -> Table:
        """Returns the table with ids that a program took for numbers ("12.0") as they were."""
        cells = self.data[column]
        given = cells.filter(pc.not_equal(cells, ""))
        if not len(given) or not pc.all(pc.match_substring_regex(given, _WAS_A_NUMBER)).as_py():
            return self
        mended = pc.replace_substring_regex(cells, r"\.0$", "")
        data = self.data.set_column(self.columns.index(column), column, mended)
        return Table(self.path, data, self.numbers, self.bad)


def open_table(path: Path, columns: Iterable[str], optional: Iterable[str] = ()) -> Table:
    """Returns columns of a CSV or Parquet table.

    A text table may be compressed (gz, bz2, xz, zip), have commas, tabs, semicolons or bars between its cells, and be
    in UTF-8, UTF-16 or Windows-1252. A cell with a word for nothing ("nan", "NULL") is an empty one.

    Args:
        columns: that must be there.
        optional: that are read where they are.

    Raises:
        InputError: the file is missing, isn't a table, is empty or lacks a column.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise InputError(f"{path}: not found; set corpus.path to where the table is")
    if path.suffix.lower() in _EXCEL:
        raise InputError(f"{path}: spreadsheets aren't read; save it as CSV in UTF-8")
    try:
        read = _read_parquet if path.suffix.lower() in _PARQUET else _read_text
        table = read(path, wanted, list(optional))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InputError(f"{path}: not a readable table ({_line(error)})") from error
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cut off or damaged ({_line(error)})") from error
    if not len(table) and not table.bad:
        raise InputError(f"{path}: the table has no rows")
    return table


def header(path: Path) -> list[str]:
    """Returns the names of a table's columns.

    Raises:
        InputError: as ``open_table``.
    """
    if path.suffix.lower() in _PARQUET:
        try:
            with parquet(path) as file:
                return list(file.schema_arrow.names)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: cut off or damaged ({_line(error)})") from error
    try:
        return _form(path, []).header
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable table ({_line(error)})") from error


@contextmanager
def parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Yields a Parquet file of any place.

    Raises:
        pyarrow.ArrowInvalid: it is none, or damaged.
        OSError: it can't be opened.
    """
    with opened_in_parts(path) as stream, pq.ParquetFile(stream) as file:
        yield file


def table_in(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """Returns the first table of a name that is in one of some folders, as it is or compressed."""
    places = list(folders)
    candidates = (place / f"{name}{ending}" for name in names for place in places for ending in ("", *_PACKED))
    return next((path for path in candidates if path.is_file()), None)


def patient_column(columns: Iterable[str]) -> str | None:
    """Returns a column that by its name holds patients."""
    return next((name for name in columns if re.sub(r"[^a-z]", "", name.lower()) in _PATIENTS), None)


@dataclass(frozen=True)
class _Form:
    """How a text table is written.

    Attributes:
        commas: whether the header ends in delimiters that its rows don't have.
    """

    encoding: str
    delimiter: str
    header: list[str]
    commas: bool = False


def _form(path: Path, wanted: list[str]) -> _Form:
    """Returns the form of a text table: UTF-16 by its mark, else UTF-8; the delimiter by which the header has the
    wanted columns, else the one that is in it most often."""
    with opened_uncompressed(path) as stream:
        begins = stream.read(_HEAD)
    for mark, what in _BINARY.items():
        if begins.startswith(mark):
            raise InputError(f"{path}: not text but {what}")
    encoding = "utf-16" if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    line, row = [*begins.decode(encoding, "replace").lstrip("\r\n").splitlines()[:2], "", ""][:2]

    def fit(delimiter: str) -> tuple[int, int]:
        cells = _cells(line, delimiter)
        return sum(name in cells for name in wanted), len(cells)

    delimiter = max(_DELIMITERS, key=fit)
    header = _cells(line, delimiter)
    named = _cells(line.rstrip().rstrip(delimiter), delimiter)
    if len(named) < len(header) and len(_cells(row, delimiter)) == len(named):
        return _Form(encoding, delimiter, named, commas=True)
    return _Form(encoding, delimiter, header)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _read_text(path: Path, wanted: list[str], optional: list[str]) -> Table:
    form = _form(path, wanted)
    bad: list[BadRow] = []

    def note(row: pv.InvalidRow) -> str:
        why = "a delimiter in a cell that isn't in quotes" if row.actual_columns > row.expected_columns else "cut off"
        bad.append(
            BadRow(
                str(path),
                row.number,
                f"{row.actual_columns} cells where the header has {row.expected_columns} ({why}?)",
            )
        )
        return "skip"

    kept = _kept(path, form.header, wanted, optional)

    def read(encoding: str) -> pa.Table:
        bad.clear()
        with opened_uncompressed(path) as stream:
            return pv.read_csv(
                stream,
                read_options=pv.ReadOptions(
                    use_threads=False,
                    block_size=_BLOCK,
                    encoding=encoding,
                    column_names=form.header if form.commas else None,
                    skip_rows=1 if form.commas else 0,
                ),
                parse_options=pv.ParseOptions(
                    delimiter=form.delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=pv.ConvertOptions(
                    column_types=dict.fromkeys(kept, pa.string()), include_columns=kept, strings_can_be_null=False
                ),
            )

    try:
        data = read("utf8" if form.encoding != "utf-16" else "utf-16")
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        data = read("cp1252")
        log.info("%s: not in UTF-8; it is read as Windows-1252", path)
    every = np.arange(2, 2 + data.num_rows + len(bad), dtype=np.int64)
    numbers = every[~np.isin(every, [row.row or 0 for row in bad])]
    return Table(path, _plain(data), numbers, bad)


def _read_parquet(path: Path, wanted: list[str], optional: list[str]) -> Table:
    with parquet(path) as file:
        schema = file.schema_arrow
        kept = _kept(path, schema.names, wanted, optional)
        _check_kinds(path, schema, kept)
        data = file.read(columns=kept)
    columns = {name: _as_text(data[name]) for name in kept}
    return Table(path, _plain(pa.table(columns)), np.arange(2, 2 + data.num_rows, dtype=np.int64))


def _check_kinds(path: Path, schema: pa.Schema, names: list[str]) -> None:
    """Raises InputError for columns that can't be cells."""
    for name in names:
        kind = schema.field(name).type
        if _holds_images(kind):
            raise InputError(f"{path}: column {name!r} holds images, not their paths; corpus.kind=hf reads those")
        if pa.types.is_nested(kind) and not pa.types.is_list(kind) and not pa.types.is_large_list(kind):
            raise InputError(f"{path}: column {name!r} holds {kind}; text, numbers or lists of them are wanted")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_images(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns cells as text: whole numbers without a point, also where a gap made floats of them; lists with
    semicolons."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.chunked_array([[";".join(map(str, cell or ())) for cell in column.to_pylist()]], pa.string())
    if pa.types.is_floating(kind):
        given = column.drop_null()
        whole = pc.all(pc.equal(given, pc.round(given))).as_py()
        if whole is not False and len(given) and pc.max(pc.abs(given)).as_py() < 2**53:
            column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


def _kept(path: Path, names: list[str], wanted: list[str], optional: list[str]) -> list[str]:
    for column in wanted:
        if column not in names:
            hint = did_you_mean(column, names, cutoff=0.5)
            raise InputError(f"{path}: no column {column!r}{hint} (columns found: {', '.join(names[:20])})")
    kept = list(dict.fromkeys([*wanted, *(column for column in optional if column in names)]))
    for column in kept:
        if names.count(column) > 1:
            raise InputError(f"{path}: column {column!r} is there {names.count(column)} times; rename all but one")
    return kept


def _plain(data: pa.Table) -> pa.Table:
    """Returns the cells without what is around them, "" for those without a value."""
    blank = pa.array(_BLANK)
    columns: dict[str, Any] = {}
    for name in data.column_names:
        cells = pc.fill_null(pc.utf8_trim_whitespace(data[name]), "")
        columns[name] = pc.if_else(pc.is_in(pc.utf8_lower(cells), blank), "", cells)
    return pa.table(columns)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
