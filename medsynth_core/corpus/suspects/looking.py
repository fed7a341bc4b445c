"""Films are looked at before they teach: what is mended, what is left out, and a picture of both."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from medsynth_core.cores import processes_for
from medsynth_core.corpus.kept import mend
from medsynth_core.corpus.normalised import IMAGES_PER_CHUNK, STUDIES_SCHEMA, VIEWS_SCHEMA, image_chunk
from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects.find import find_suspects
from medsynth_core.corpus.suspects.looks import SIDE
from medsynth_core.corpus.suspects.suspect import Suspect

Verdict = Literal["mended", "left out", "kept"]
_BLOCK = 4000
"""Films that are looked at together: each block learns from its own."""
_SHOWN = 12
"""Films of a kind in the picture."""
_MARGIN = 14


def look(folder: Path, skip: bool, seed: int) -> dict[str, int]:
    """Looks at the films of a corpus that isn't published yet, mends and leaves out, and returns how many of what.

    Inverted films are mended. Of a pair of copies the first stays. What was found is in ``suspects.csv`` and
    ``suspects.png``.

    Args:
        skip: whether other films than inverted ones are left out; else they are marked.
    """
    views = pq.read_table(folder / "views.parquet").to_pylist()
    frontal = [view for view in views if view["view"] != "lateral"]
    thumbnails = _thumbnails(folder, [view["row"] for view in frontal])
    found = _suspects(thumbnails, [view["patient_id"] for view in frontal], seed)
    verdicts = {place: (suspect, _verdict(suspect, skip)) for place, suspect in _clearest(found).items()}
    for place, (suspect, verdict) in verdicts.items():
        view = frontal[place]
        if verdict == "mended":
            view["mended"] = "inverted" if view["mended"] is None else f"{view['mended']}, inverted"
        else:
            view["suspect"] = _in_words(suspect)
    mend(folder, [frontal[place]["row"] for place, (_, verdict) in verdicts.items() if verdict == "mended"])
    gone = {frontal[place]["row"] for place, (_, verdict) in verdicts.items() if verdict == "left out"}
    _write_views(folder, views, gone)
    shown = [(frontal[place], suspect, verdict) for place, (suspect, verdict) in sorted(verdicts.items())]
    _list(folder / "suspects.csv", shown)
    if shown:
        _draw(folder / "suspects.png", [(each, thumbnails[each[1].index]) for each in shown])
    counts = Counter(f"{suspect.kind}, {verdict}" for suspect, verdict in verdicts.values())
    counts["borders, mended"] = sum("borders" in (view["mended"] or "") for view in views)
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


def _suspects(thumbnails: ImageU8, patients: Sequence[str], seed: int) -> list[Suspect]:
    n = max(1, round(len(thumbnails) / _BLOCK))
    bounds = np.linspace(0, len(thumbnails), n + 1).astype(int).tolist()
    parallel = joblib.Parallel(n_jobs=processes_for(n, 1))
    blocks = parallel(
        joblib.delayed(_block)(np.array(thumbnails[start:stop]), patients[start:stop], seed, start)
        for start, stop in pairwise(bounds)
    )
    return [suspect for block in blocks for suspect in block]


def _block(thumbnails: ImageU8, patients: Sequence[str], seed: int, start: int) -> list[Suspect]:
    return [suspect.moved(start) for suspect in find_suspects(thumbnails, patients, seed)]


def _clearest(suspects: Sequence[Suspect]) -> dict[int, Suspect]:
    """Returns what counts of each film: that it is turned rather than inverted as well; no copy of a later film."""
    found: dict[int, Suspect] = {}
    for suspect in suspects:
        if suspect.copy_of is not None and suspect.copy_of > suspect.index:
            continue
        other = found.get(suspect.index)
        if other is None or other.kind in {"inverted", "copy"}:
            found[suspect.index] = suspect
    return found


def _verdict(suspect: Suspect, skip: bool) -> Verdict:
    if suspect.kind == "inverted":
        return "mended"
    return "left out" if skip else "kept"


def _in_words(suspect: Suspect) -> str:
    return f"turned by {suspect.turned_by} degrees" if suspect.kind == "turned" else suspect.kind


def _write_views(folder: Path, views: list[dict[str, Any]], gone: set[int]) -> None:
    """Writes views without those that are gone, and studies with the views that they have left."""
    less = Counter(view["study_id"] for view in views if view["row"] in gone)
    kept = [view for view in views if view["row"] not in gone]
    pq.write_table(pa.Table.from_pylist(kept, schema=VIEWS_SCHEMA), folder / "views.parquet")
    if not less:
        return
    studies = pq.read_table(folder / "studies.parquet")
    n_views = [
        n - less[study]
        for study, n in zip(*(studies[name].to_pylist() for name in ("study_id", "n_views")), strict=True)
    ]
    place = STUDIES_SCHEMA.get_field_index("n_views")
    pq.write_table(
        studies.set_column(place, STUDIES_SCHEMA.field(place), pa.array(n_views, pa.int32())),
        folder / "studies.parquet",
    )


def _list(path: Path, shown: Sequence[tuple[dict[str, Any], Suspect, Verdict]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["view_id", "study_id", "source", "seems", "score", "is"])
        writer.writerows(
            [view["view_id"], view["study_id"], view["source"], _in_words(suspect), f"{suspect.score:.3f}", verdict]
            for view, suspect, verdict in shown
        )


def _draw(path: Path, shown: Sequence[tuple[tuple[dict[str, Any], Suspect, Verdict], ImageU8]]) -> None:
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
