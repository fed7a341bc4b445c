"""CheXGenBench's files: annotations (a prompt, labels and the film of a study a row) and tables of synthetic images."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsynth_core.corpus.tables import Table, open_table
from medsynth_core.errors import InputError
from medsynth_core.evaluation.chexgenbench.protocol import (
    ID,
    LABELS,
    MADE_IMAGES,
    MADE_PROMPTS,
    MADE_TABLES,
    PATH,
    PATHOLOGIES,
    PROMPT,
)

_IMAGES = (".png", ".jpg", ".jpeg")
_FEW = 60
_NAN = re.compile(r"\b(?:nan|NaN|null)\b")


@dataclass(frozen=True)
class Annotation:
    """A row of its annotations; the first of those with one prompt.

    Attributes:
        row: of the file, the header's being 1.
        id: "" where the file has none.
        labels: pathologies that are certainly there.
        film: None where the file names none.
    """

    row: int
    id: str
    prompt: str
    labels: frozenset[str]
    film: Path | None


@dataclass(frozen=True)
class Made:
    """A synthetic image and the prompt that it was made of.

    Attributes:
        where: file and row, for messages.
    """

    where: str
    prompt: str
    image: Path


def read_annotations(path: Path, films: Path | None, needs_film: bool) -> list[Annotation]:
    """Returns the rows of a CSV with the column ``annotated_prompt``, and ``path``, ``id``, ``chexpert_labels`` where
    they are; the first of those with one prompt (as metrics/fid.py), and none without (as metrics/privacy_metrics.py).

    Args:
        films: folder that ``path`` is in; None: the table's own.
        needs_film: every row must have a film.

    Raises:
        InputError: the file isn't there, lacks a column or has no prompt, or a cell can't be read.
    """
    table = _opened(path, [PROMPT, *([PATH] if needs_film else [])], [PATH, ID, LABELS])
    folder, found = films or path.parent, dict[str, Annotation]()
    for row, cells in table.rows():
        prompt, film = cells[PROMPT], cells.get(PATH, "")
        if not prompt or prompt in found:
            continue
        if needs_film and not film:
            raise InputError(f"{path}: row {row}: {PATH!r} is empty; a film is needed for each prompt")
        labels = _labels(cells.get(LABELS, ""), f"{path}: row {row}")
        found[prompt] = Annotation(row, cells.get(ID, ""), prompt, labels, folder / film if film else None)
    if not found:
        raise InputError(f"{path}: no prompt in column {PROMPT!r}")
    return list(found.values())


def read_made(place: Path, images: Path | None, annotations: Sequence[Annotation]) -> list[Made]:
    """Returns synthetic images: of a table, of the table in a folder, or of a folder whose images are called by the ids
    of the annotations, ``SyntheticImg_<id>.png`` or ``<id>.png``.

    Args:
        images: folder that a table's images are in; None: the table's own.

    Raises:
        InputError: there is no table and no such image, a column is missing, a cell is empty, a prompt isn't in the
            annotations.
    """
    if place.is_dir():
        table = next((place / name for name in MADE_TABLES if (place / name).is_file()), None)
        if table is None:
            return _by_id(place, annotations)
        place = table
    prompts = {annotation.prompt for annotation in annotations}
    read = _opened(place, [], [*MADE_PROMPTS, *MADE_IMAGES])
    prompt_column, image_column = (_one_of(place, read, names) for names in (MADE_PROMPTS, MADE_IMAGES))
    found = []
    for row, cells in read.rows():
        where = f"{place}: row {row}"
        for column in (prompt_column, image_column):
            if not cells[column]:
                raise InputError(f"{where}: {column!r} is empty; fill it in, or take the row out")
        if prompts and cells[prompt_column] not in prompts:
            raise InputError(
                f"{where}: its prompt {_short(cells[prompt_column])!r} isn't among those of --prompts; make images of "
                f"those, or name the file that these were made of"
            )
        found.append(Made(where, cells[prompt_column], (images or place.parent) / cells[image_column]))
    return found


def check_complete(made: Iterable[Made], annotations: Sequence[Annotation], whence: str) -> None:
    """Raises InputError where a prompt has no image."""
    have = {each.prompt for each in made}
    without = [annotation for annotation in annotations if annotation.prompt not in have]
    if without:
        raise InputError(
            f"{whence}: {len(without)} of {len(annotations)} prompts have no image (first: row {without[0].row}, "
            f"{_short(without[0].prompt)!r}); make them, or measure fewer by --max-prompts"
        )


def _by_id(folder: Path, annotations: Sequence[Annotation]) -> list[Made]:
    by_id = {annotation.id: annotation for annotation in annotations if annotation.id}
    found = []
    for path in sorted(folder.iterdir()):
        annotation = by_id.get(path.stem.removeprefix("SyntheticImg_"))
        if annotation is not None and path.suffix.lower() in _IMAGES:
            found.append(Made(str(path), annotation.prompt, path))
    if not found:
        raise InputError(
            f"{folder}: neither {' nor '.join(MADE_TABLES)} is there, nor an image called by the column {ID!r} of "
            f"--prompts (SyntheticImg_<id>.png); name a table with the columns {MADE_PROMPTS[0]!r} and "
            f"{MADE_IMAGES[0]!r}"
        )
    return found


def _opened(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    table = open_table(path, columns, optional)
    if table.bad:
        raise InputError(f"{path}: row {table.bad[0].row}: {table.bad[0].reason}")
    return table


def _one_of(path: Path, table: Table, names: Sequence[str]) -> str:
    """Returns the first of some columns that is there."""
    found = next((name for name in names if name in table.columns), None)
    if found is None:
        raise InputError(f"{path}: no column {names[0]!r} (nor {names[1]!r}); a table of synthetic images has one")
    return found


def _labels(cell: str, where: str) -> frozenset[str]:
    """Returns the pathologies of a dictionary's text whose value is 1."""
    if not cell:
        return frozenset()
    try:
        said = ast.literal_eval(_NAN.sub("None", cell))
        return frozenset(name for name, value in said.items() if value is not None and float(value) == 1.0)
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{where}: {LABELS!r} isn't a dictionary of numbers such as {{'{PATHOLOGIES[0]}': 1, ...}} "
            f"({_short(cell)!r})"
        ) from error


def _short(text: str) -> str:
    return text if len(text) <= _FEW else f"{text[:_FEW]}..."
