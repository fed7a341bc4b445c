"""Studies of the rows of any table, by the columns that the settings name; rows that can't be of one are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medsynth_core.corpus.labels import age_of, labelled, listed, sex_of, split_named
from medsynth_core.corpus.records import BadRow, Given, Study, View
from medsynth_core.corpus.sections import read_sections
from medsynth_core.corpus.settings import ColumnsConfig, CorpusConfig
from medsynth_core.corpus.tables import Table, patient_column
from medsynth_core.errors import InputError

Row = tuple[int, dict[str, str]]
ViewOf = Callable[[dict[str, str]], View | None]
"""Makes the view of a row; None where it has none."""

LOOKED_AT = 200
"""Rows by which a column is known to hold something else than it should."""
_MOST = 0.9


def named_columns(columns: ColumnsConfig) -> list[str]:
    """Returns the columns that the settings name."""
    named = [
        columns.text, columns.image, columns.study, columns.patient, columns.view, columns.impression, columns.mask,
        columns.findings, *columns.labels, columns.sex, columns.age, columns.race, columns.split,
    ]  # fmt: skip
    return [name for name in named if name]


def check_patients(path: Path, names: Sequence[str], columns: ColumnsConfig) -> None:
    """Raises InputError for a table with a column of patients that the settings don't name."""
    if columns.patient is None and (patients := patient_column(names)) is not None:
        raise InputError(
            f"{path}: column {patients!r} seems to hold patients, whose films mustn't be on both sides of a split; set "
            f"corpus.columns.patient={patients}, or to the study's column where each study is of another patient"
        )


def check_text(table: Table, column: str) -> None:
    """Raises InputError for a column of numbers or of files, which would be read as reports of normal chests."""
    cells = [cell for cell in table.head(LOOKED_AT).column(column) if cell]
    if len(cells) < 2:
        return
    if sum(_is_number(cell) for cell in cells) > _MOST * len(cells):
        raise InputError(
            f"{table.path}: column {column!r} holds numbers, not reports; set corpus.columns.text to the reports' "
            f"column, or to null and corpus.columns.labels to the findings'"
        )
    if sum(cell.lower().endswith((".txt", ".rtf", ".xml")) and " " not in cell for cell in cells) > _MOST * len(cells):
        raise InputError(
            f"{table.path}: column {column!r} holds paths of files, not reports; put the reports' texts into it "
            f"(corpus.kind=mimic-cxr reads MIMIC's own tree)"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def studies_of(table: Table, config: CorpusConfig, view_of: ViewOf) -> Iterator[Study | BadRow]:
    """Yields the studies of a table with the columns that the settings name, and its rows that can't be of one."""
    yield from table.bad
    shared = table.repeated(config.columns.image) if config.columns.image else frozenset[str]()
    owners: dict[str, int] = {}
    for rows in table.groups(config.columns.study):
        kept: list[Row] = []
        for number, row in rows:
            problem = _problem(row, kept, owners, config)
            if problem:
                yield BadRow(str(table.path), number, problem)
            elif problem is None:
                kept.append((number, row))
        if kept:
            owners.update({image: kept[0][0] for _, row in kept if (image := image_of(row, config)) in shared})
            yield _study(kept, view_of, config, table.path)


def _problem(row: dict[str, str], kept: Sequence[Row], owners: dict[str, int], config: CorpusConfig) -> str | None:
    """Returns what is wrong with a row beside those that are kept of its study; None when nothing is, "" when it says
    what another one has said."""
    columns = config.columns
    for name, what in ((columns.study, "study"), (columns.patient, "patient")):
        if name and not row[name]:
            return f"no {what} in column {name!r}"
    image = image_of(row, config)
    if image and image in owners:
        return f"its image is another study's, too (row {owners[image]})"
    if not kept:
        return None
    first_number, first = kept[0]
    same = {
        "patient": [columns.patient],
        "report": [columns.text, columns.impression],
        "findings": [columns.findings, *columns.labels],
        "sex": [columns.sex],
        "age": [columns.age],
        "split": [columns.split],
    }
    for what, names in same.items():
        if any(name and row[name] != first[name] for name in names):
            return f"another {what} than row {first_number}, which is of the same study"
    return "" if any(image == image_of(other, config) for _, other in kept) else None


def image_of(row: dict[str, str], config: CorpusConfig) -> str:
    """Returns what a row names as its image, "" where it names none."""
    return row[config.columns.image] if config.columns.image else ""


def _study(rows: Sequence[Row], view_of: ViewOf, config: CorpusConfig, path: Path) -> Study | BadRow:
    columns = config.columns
    number, first = rows[0]
    findings, impression, left_out = read_sections(first[columns.text]) if columns.text else ("", "", ())
    if columns.impression:
        impression = first[columns.impression].strip()
    given, unread = given_of(first, config)
    if unread:
        return BadRow(str(path), number, unread)
    if not (findings or impression or given):
        if not columns.text:
            return BadRow(str(path), number, "no findings are given")
        only = f" but {' and '.join({part.reason: 0 for part in left_out})}" if left_out else ""
        return BadRow(str(path), number, f"no text in column {columns.text!r}{only}")
    views = tuple(view for _, row in rows if (view := view_of(row)) is not None)
    study = first[columns.study] if columns.study else f"row-{number - 2:06d}"
    return Study(
        study,
        first[columns.patient] if columns.patient else study,
        findings,
        impression,
        views,
        given,
        sex=sex_of(first[columns.sex]) if columns.sex else None,
        age=age_of(first[columns.age]) if columns.age else None,
        race=first[columns.race] or None if columns.race else None,
        split=split_named(first[columns.split]) if columns.split else None,
        left_out=left_out,
    )


def given_of(row: dict[str, str], config: CorpusConfig) -> tuple[tuple[Given, ...], str | None]:
    """Returns the findings that a row gives, and what can't be read of it."""
    columns = config.columns
    given = list(listed(row[columns.findings], columns.origin)) if columns.findings else []
    for column in columns.labels:
        try:
            label = labelled(column, row[column], columns.origin)
        except ValueError as error:
            return (), str(error)
        given += [] if label is None else [label]
    return tuple(given), None
