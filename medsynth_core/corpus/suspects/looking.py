"""Films are looked at before they teach: what is mended, what is left out, and a picture of both."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from medsynth_core.corpus.kept import mend
from medsynth_core.corpus.normalised import IMAGES_PER_CHUNK, image_chunk
from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects.find import find_suspects
from medsynth_core.corpus.suspects.looks import SIDE
from medsynth_core.corpus.suspects.suspect import Suspect

Verdict = Literal["mended", "left out", "kept"]
_SHOWN = 12
"""Films of a kind in the picture."""
_MARGIN = 14


class _Found(NamedTuple):
    """A view that seems faulty: its place in the table, and what becomes of it."""

    place: int
    suspect: Suspect
    verdict: Verdict


def look(folder: Path, skip: bool, seed: int) -> dict[str, int]:
    """Looks at the films of a corpus that isn't published yet, mends and leaves out, and returns how many of what.

    Inverted films are mended. Of a pair of copies the first stays. What was found is in ``suspects.csv`` and
    ``suspects.png``.

    Args:
        skip: whether other films than inverted ones are left out; else they are marked.
    """
    views = pq.read_table(folder / "views.parquet")
    places = [place for place, view in enumerate(views["view"].to_pylist()) if view != "lateral"]
    rows, mended = views["row"].to_pylist(), views["mended"].to_pylist()
    patients = views["patient_id"].to_pylist()
    thumbnails = _thumbnails(folder, [rows[place] for place in places])
    suspects = find_suspects(thumbnails, [patients[place] for place in places], seed)
    found = [_Found(places[each.index], each, _verdict(each, skip)) for each in _clearest(suspects)]
    marks: list[str | None] = [None] * len(rows)
    for place, suspect, verdict in found:
        if verdict == "mended":
            mended[place] = "inverted" if mended[place] is None else f"{mended[place]}, inverted"
        else:
            marks[place] = _in_words(suspect)
    mend(folder, [rows[place] for place, _, verdict in found if verdict == "mended"])
    for name, cells in (("mended", mended), ("suspect", marks)):
        views = views.set_column(views.schema.get_field_index(name), name, pa.array(cells, pa.string()))
    _list(folder / "suspects.csv", views, found)
    if found:
        _draw(folder / "suspects.png", [(each, thumbnails[each.suspect.index]) for each in found])
    _leave_out(folder, views, [place for place, _, verdict in found if verdict == "left out"])
    counts = Counter(f"{suspect.kind}, {verdict}" for _, suspect, verdict in found)
    counts["borders, mended"] = sum("borders" in (each or "") for each in mended)
    return {name: n for name, n in sorted(counts.items()) if n}


def _thumbnails(folder: Path, rows: Sequence[int]) -> ImageU8:
    """Returns films by area, uint8 [N, 64, 64], on disk."""
    out = np.lib.format.open_memmap(folder / "thumbnails.tmp", mode="w+", dtype=np.uint8, shape=(len(rows), SIDE, SIDE))
    (folder / "thumbnails.tmp").unlink()
    chunks: dict[int, npt.NDArray[np.uint8]] = {}
    for place, row in enumerate(rows):
        number = row // IMAGES_PER_CHUNK
        if number not in chunks:
            chunks = {number: np.load(image_chunk(folder, number), mmap_mode="r")}
        film = Image.fromarray(chunks[number][row % IMAGES_PER_CHUNK])
        out[place] = np.asarray(film.resize((SIDE, SIDE), Image.Resampling.BOX))
    return out


def _clearest(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Returns what counts of each film: that it is turned rather than inverted as well; no copy of a later film."""
    found: dict[int, Suspect] = {}
    for suspect in suspects:
        if suspect.copy_of is not None and suspect.copy_of > suspect.index:
            continue
        other = found.get(suspect.index)
        if other is None or other.kind in {"inverted", "copy"}:
            found[suspect.index] = suspect
    return [found[index] for index in sorted(found)]


def _verdict(suspect: Suspect, skip: bool) -> Verdict:
    if suspect.kind == "inverted":
        return "mended"
    return "left out" if skip else "kept"


def _in_words(suspect: Suspect) -> str:
    return f"turned by {suspect.turned_by} degrees" if suspect.kind == "turned" else suspect.kind


def _leave_out(folder: Path, views: pa.Table, places: Sequence[int]) -> None:
    """Writes the views but some, and studies with the views that they have left."""
    gone = np.zeros(len(views), dtype=bool)
    gone[list(places)] = True
    less = Counter(views.filter(pa.array(gone))["study_id"].to_pylist())
    pq.write_table(views.filter(pa.array(~gone)), folder / "views.parquet")
    studies = pq.read_table(folder / "studies.parquet")
    names, had = (studies[name].to_pylist() for name in ("study_id", "n_views"))
    left = pa.array([n - less[study] for study, n in zip(names, had, strict=True)], pa.int32())
    place = studies.schema.get_field_index("n_views")
    pq.write_table(studies.set_column(place, studies.schema.field(place), left), folder / "studies.parquet")


def _list(path: Path, views: pa.Table, found: Sequence[_Found]) -> None:
    said = views.select(["view_id", "study_id", "source"]).take(pa.array([each.place for each in found], pa.int64()))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["view_id", "study_id", "source", "seems", "score", "is"])
        writer.writerows(
            [*view.values(), _in_words(suspect), f"{suspect.score:.3f}", verdict]
            for view, (_, suspect, verdict) in zip(said.to_pylist(), found, strict=True)
        )


def _draw(path: Path, shown: Sequence[tuple[_Found, ImageU8]]) -> None:
    """Writes a sheet of films as they came, a line a kind, the clearest first."""
    kinds: dict[str, list[tuple[float, ImageU8]]] = {}
    for (_, suspect, verdict), film in shown:
        kinds.setdefault(f"{suspect.kind}, {verdict}", []).append((suspect.score, film))
    sheet = Image.new("L", (_SHOWN * SIDE, len(kinds) * (SIDE + _MARGIN)), 255)
    pen = ImageDraw.Draw(sheet)
    for line, (kind, films) in enumerate(sorted(kinds.items())):
        top = line * (SIDE + _MARGIN)
        pen.text((2, top), f"{kind}: {len(films)}", fill=0)
        for place, (_, film) in enumerate(sorted(films, key=lambda each: -each[0])[:_SHOWN]):
            sheet.paste(Image.fromarray(film), (place * SIDE, top + _MARGIN))
    sheet.save(path)
