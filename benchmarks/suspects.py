"""What is found of faults planted among real films, and how many films are touched to which nothing was done.

    python -m benchmarks.suspects FILMS [--each 200] [--seed 401] [--faulty FILE]

FILMS is a folder with a table studies.csv, whose columns image and patient are read, and the films in images/. Some are
inverted, mirrored, turned or put between bars; laterals, photographs, blank films and near-copies of films are added,
as other patients'. ``planted_films`` makes them.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.planted_films import blank, lateral, letterboxed, near_copy, photograph, resized
from medsynth_core.corpus.records import ImageU8
from medsynth_core.corpus.suspects import looks
from medsynth_core.corpus.suspects.borders import Borders, trimmed
from medsynth_core.corpus.suspects.find import find_suspects
from medsynth_core.corpus.suspects.suspect import Suspect

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()

CHANGED = ("inverted", "mirrored", "turned", "letterboxed")
LATERALS = ("lateral, drawn", "lateral, drawn with film grain")
WANTED = {
    "inverted": "inverted",
    "mirrored": "mirrored",
    "turned": "turned",
    "letterboxed": "trimmed",
    **dict.fromkeys((*LATERALS, "photograph"), "not a frontal chest"),
    "blank": "blank",
    "near-copy": "copy",
}
"""Kinds that are planted -> what they should be found as."""
_CLOSE = 2
"""Pixels of a side by which a trimmed border may differ from the bar."""


@dataclass
class Film:
    """A film, what is true of it, and what was found.

    Attributes:
        kind: of ``WANTED``; "" when nothing was done to it.
        name: "" when it was added.
        turned_by: degrees counter-clockwise, if it was turned.
        bars: that it was put between.
        copied: index of the film that it is a near-copy of.
        trimmed: borders that were found.
        suspects: what else was found, by kind.
    """

    image: ImageU8
    patient: str
    kind: str = ""
    name: str = ""
    turned_by: int = 0
    bars: Borders = field(default_factory=Borders)
    copied: int | None = None
    trimmed: Borders = field(default_factory=Borders)
    suspects: dict[str, Suspect] = field(default_factory=dict)


@app.command()
def main(
    films: Annotated[Path, typer.Argument(help="Folder with studies.csv and images/.", exists=True, file_okay=False)],
    each: Annotated[int, typer.Option(help="Faults of each kind.", min=1)] = 200,
    seed: int = 401,
    faulty: Annotated[
        Path | None, typer.Option(help="Names, a line each, of films that are faulty as they are.", exists=True)
    ] = None,
) -> None:
    """Recall of each kind of fault, and the share of other films that are touched."""
    known = read(films)
    names = set() if faulty is None else set(faulty.read_text().split())
    strange = names - {film.name for film in known}
    if strange:
        raise typer.BadParameter(f"not among the films: {', '.join(sorted(strange))}", param_hint="--faulty")
    if len(known) < (len(CHANGED) + 1) * each:
        raise typer.BadParameter(f"{len(known)} films are too few; want 5 for each", param_hint="--each")
    everything = planted(known, each, np.random.default_rng(seed))
    scaling_s, finding_s = look(everything, seed)
    console.print(recall(everything))
    turned = [film for film in everything if film.kind == "turned" and "turned" in film.suspects]
    degrees = share([film.suspects["turned"].turned_by == film.turned_by for film in turned])
    console.print(f"of turned films found so, by the right degrees: {degrees}")
    console.print(touched(everything, names))
    console.print(
        f"{len(everything):,} films; CPU seconds: borders and thumbnails {scaling_s:.1f}, all else {finding_s:.1f}"
    )


def read(folder: Path) -> list[Film]:
    """Returns the films of a folder, uint8 [256, 256] each."""
    with (folder / "studies.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row["image"], row["patient"]) for row in csv.DictReader(stream)]
    return [Film(pixels(folder / "images" / name), patient, name=name) for name, patient in rows]


def pixels(path: Path) -> ImageU8:
    with Image.open(path) as image:
        return resized(np.asarray(image.convert("L")))


def planted(films: Sequence[Film], each: int, draw: np.random.Generator) -> list[Film]:
    """Returns the films, some changed, and others after them."""
    films = list(films)
    order = draw.permutation(len(films))
    for place, kind in enumerate(CHANGED):
        for index in order[place * each : (place + 1) * each]:
            films[index] = changed(films[index], kind, draw)
    clean = order[len(CHANGED) * each :]
    for count, source in enumerate(draw.permutation(clean)[:each].tolist()):
        film, other = films[source].image, films[clean[draw.integers(len(clean))]].image
        view = count % len(LATERALS)
        added = {
            "near-copy": near_copy(film, draw),
            LATERALS[view]: lateral(draw, other if view else None),
            "photograph": photograph(draw),
            "blank": blank(other, draw),
        }
        for kind, image in added.items():
            copied = source if kind == "near-copy" else None
            films.append(Film(image, f"planted {len(films)}", kind, copied=copied))
    return films


def changed(film: Film, kind: str, draw: np.random.Generator) -> Film:
    """Returns a faulty version of a film."""
    if kind == "letterboxed":
        image, bars = letterboxed(film.image, draw)
        return replace(film, image=image, kind=kind, bars=bars)
    turns = int(draw.choice([1, 3]))
    images = {"inverted": 255 - film.image, "mirrored": film.image[:, ::-1], "turned": np.rot90(film.image, turns)}
    return replace(film, image=np.ascontiguousarray(images[kind]), kind=kind, turned_by=90 * turns)


def look(films: Sequence[Film], seed: int) -> tuple[float, float]:
    """Leaves with each film what is found; returns the CPU seconds of trimming and scaling, and of finding."""
    began = time.process_time()
    thumbnails = np.empty((len(films), looks.SIDE, looks.SIDE), dtype=np.uint8)
    for index, film in enumerate(films):
        image, film.trimmed = trimmed(film.image)
        small = Image.fromarray(image).resize((looks.SIDE, looks.SIDE), Image.Resampling.BOX)
        thumbnails[index] = np.asarray(small)
    scaled = time.process_time()
    for suspect in find_suspects(thumbnails, [film.patient for film in films], seed):
        films[suspect.index].suspects[suspect.kind] = suspect
    return scaled - began, time.process_time() - scaled


def recall(films: Sequence[Film]) -> Table:
    """Returns how many of each kind are found as what they should be, as anything (trimming apart), and as what."""
    table = Table("kind", "should be", "planted", "recall", "flagged", "as")
    for kind, wanted in WANTED.items():
        those = [(index, film) for index, film in enumerate(films) if film.kind == kind]
        if not those:
            continue
        right = [is_right(index, film, films) for index, film in those]
        flagged = [bool(film.suspects) for _, film in those]
        flags = listed(flag for _, film in those for flag in film.suspects)
        table.add_row(kind, wanted, str(len(those)), share(right), share(flagged), flags)
    return table


def is_right(index: int, film: Film, films: Sequence[Film]) -> bool:
    """Says whether a film is found as what it is; a near-copy and its film, either as the other's copy."""
    if film.kind == "letterboxed":
        return max(abs(a - b) for a, b in zip(film.trimmed, film.bars, strict=True)) <= _CLOSE
    if film.copied is None:
        return WANTED[film.kind] in film.suspects
    back = films[film.copied].suspects.get("copy")
    return "copy" in film.suspects and (
        film.suspects["copy"].copy_of == film.copied or (back is not None and back.copy_of == index)
    )


def touched(films: Sequence[Film], faulty: set[str]) -> Table:
    """Returns how many films to which nothing was done are trimmed or flagged, and as what."""
    copied = {film.copied for film in films}
    flags: dict[str, set[str]] = {}
    for index, film in enumerate(films):
        if not film.kind:
            flags[film.name] = set(film.suspects) - ({"copy"} if index in copied else set())
            flags[film.name] |= {"trimmed"} if any(film.trimmed) else set()
    table = Table("untouched", "films", "touched", "as")
    apart = {"faulty by eye": flags.keys() & faulty, "the others": flags.keys() - faulty} if faulty else {}
    for title, names in {**apart, "all": flags.keys()}.items():
        kinds = listed(flag for name in names for flag in flags[name])
        table.add_row(title, str(len(names)), share([bool(flags[name]) for name in names]), kinds)
    return table


def share(flags: Sequence[bool]) -> str:
    return f"{np.mean(flags):.3f}" if flags else "-"


def listed(flags: Iterable[str]) -> str:
    """Returns what there is and how often, the commonest first."""
    return ", ".join(f"{flag} {n}" for flag, n in Counter(sorted(flags)).most_common())


if __name__ == "__main__":
    app()
