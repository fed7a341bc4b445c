"""What the columns of an unknown table seem to hold, by their names and by what is in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from medsynth_core.corpus.files import missing
from medsynth_core.corpus.labels import listed, sex_of, split_named
from medsynth_core.corpus.tables import Table, patient_column

_NAMES: Mapping[str, tuple[str, ...]] = {
    "study": ("study", "studyid", "studyinstanceuid", "accession", "accessionnumber", "exam", "examid"),
    "view": ("view", "projection", "viewposition", "position"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "age": ("age", "patientage", "ageyears"),
    "race": ("race", "ethnicity"),
    "split": ("split", "fold", "subset", "set", "partition"),
    "mask": ("mask", "segmentation"),
    "impression": ("impression", "conclusion"),
}
"""Columns by their names, without signs and in lower case."""
_REPORTS = re.compile(r"text|report|finding|narrative|caption")
_LOOKED_AT = 300
_IMAGE = re.compile(r"\.(png|jpe?g|tiff?|bmp|dcm|dicom|dic)$", re.IGNORECASE)
_STATUSES = frozenset({"1", "0", "-1", "1.0", "0.0", "-1.0"})
_MOST = 0.9
_WORDS_OF_A_LABEL = 5
_WORDS_OF_A_REPORT = 6
_FEW_LABELS = 3


def guess_columns(table: Table, folders: Collection[Path]) -> dict[str, object]:
    """Returns settings of ``corpus.columns`` by what a table's columns seem to hold; what isn't seen is left out.

    Args:
        folders: in which images may be.
    """
    cells = {name: _some(table.column(name)) for name in table.columns}
    image = next((name for name in cells if _holds_images(cells[name], folders)), None)
    said: dict[str, object] = {"image": image}
    if (patient := patient_column(cells)) is not None:
        said["patient"] = patient
    taken = {image, patient}
    for what, names in _NAMES.items():
        name = next((each for each in cells if re.sub(r"[^a-z]", "", each.lower()) in names and cells[each]), None)
        if name is None or name in taken or not _fits(what, cells[name]):
            continue
        said[what] = name
        taken.add(name)
    free = [name for name in cells if name not in taken and cells[name]]
    labels = [name for name in free if set(cells[name]) <= _STATUSES]
    if len(labels) >= _FEW_LABELS:
        said["labels"] = labels
    named = [name for name in free if re.search(r"finding|label|diagnos|patholog|class", name.lower())]
    findings = next((name for name in named if name not in labels and _are_labels(cells[name])), None)
    if findings is not None:
        said["findings"] = findings
    others = [name for name in free if name not in {findings, *labels}]
    reports = [name for name in others if _REPORTS.search(name.lower()) and _are_sentences(cells[name])]
    said["text"] = max(reports, key=lambda name: sum(map(len, cells[name])), default=None)
    return said


def filled(table: Table, columns: Iterable[str]) -> int:
    """Returns in how many rows one of some columns isn't empty."""
    return sum(any(cells) for cells in zip(*(table.column(name) for name in columns), strict=True))


def _some(cells: Sequence[str]) -> list[str]:
    """Returns cells that aren't empty, from all over a column."""
    filled = [cell for cell in cells if cell]
    return filled[:: max(1, len(filled) // _LOOKED_AT)]


def _fits(what: str, cells: Sequence[str]) -> bool:
    """Returns whether a column's cells are what its name says."""
    if what == "sex":
        return sum(sex_of(cell) is not None for cell in cells) > _MOST * len(cells)
    if what == "split":
        return sum(split_named(cell) is not None for cell in cells) > _MOST * len(cells)
    if what == "mask":
        return all(_IMAGE.search(cell) for cell in cells)
    return what != "impression" or median(len(cell.split()) for cell in cells) > 1


def _holds_images(cells: Sequence[str], folders: Collection[Path]) -> bool:
    """Returns whether a column names images: by their endings, or by files that are there."""
    if not cells:
        return False
    if sum(bool(_IMAGE.search(cell)) for cell in cells) > _MOST * len(cells):
        return True
    return any(missing(folder, cell) is None for folder in folders for cell in cells[:3])


def _are_sentences(cells: Sequence[str]) -> bool:
    stopped = sum(cell.rstrip().endswith(".") for cell in cells) > len(cells) / 2
    return stopped or median(len(cell.split()) for cell in cells) >= _WORDS_OF_A_REPORT


def _are_labels(cells: Sequence[str]) -> bool:
    """Returns whether cells are a few names each, many of them the same, and no sentences."""
    names = [given.name for cell in cells for given in listed(cell, "")]
    short = sum(len(name.split()) <= _WORDS_OF_A_LABEL and not name.endswith(".") for name in names)
    return bool(names) and short > _MOST * len(names) and len(set(names)) <= max(20, len(names) // 3)
