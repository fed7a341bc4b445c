"""The records that every corpus reader yields: one study, its views, its report; and the source that yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medsynth_core.corpus.sections import LeftOut

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Grayscale image of a film, shape [height, width], 0 = black .. 255 = white, air dark and bone bright; float32, and
not rounded, where the file holds more than 8 bits a pixel."""

ImageU8 = npt.NDArray[np.uint8]
"""Grayscale image, uint8, shape [height, width], 0 = black .. 255 = white, air dark and bone bright."""

ORGANS = ("right lung", "left lung", "heart")
"""What a mask tells apart, by the patient's side: number 1, 2, 3; 0 is neither."""

UNMASKED = 255
"""Number in the mask of an image that came without one."""

MaskU8 = npt.NDArray[np.uint8]
"""Numbers of organs, uint8, shape [height, width]."""

Projection = Literal["PA", "AP", "AP supine", "frontal", "lateral", "unknown"]
"""How a film was taken; ``frontal`` where PA and AP aren't told apart."""

Status = Literal["present", "uncertain", "absent"]
"""What is said of a finding; one of which nothing is said isn't mentioned, which may be another thing than absent."""

NO_FINDING = "no finding"
"""What a source's name for a normal chest is given as."""


@dataclass(frozen=True)
class Given:
    """What somebody says of a finding beside the report.

    Attributes:
        name: of the finding, as the source calls it.
        origin: who says so, e.g. ``radiologist``.
    """

    name: str
    status: Status
    origin: str


@dataclass(frozen=True)
class Box:
    """Where somebody saw a finding.

    Attributes:
        name, origin: as ``Given``'s.
        x, y, width, height: in pixels of the file, from the upper left corner.
    """

    name: str
    origin: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class View:
    """One radiograph of a study.

    Attributes:
        view_id: unique in the corpus; the file's name in its folder, or the phantom's index.
        projection: how it was taken.
        source: where the pixels come from, for error messages (a path, or ``phantom:<index>``).
        load: returns the image in the file's own size, or, of one without boxes and mask, reduced to no less than twice
            ``corpus.image_size``; raises InputError when it can't be read. Called at most once, in any process.
        load_mask: returns the organs in it, of the same shape as the file; None where nobody drew them.
        called: the source's word for a projection that isn't known, else "".
        manufacturer: of the machine, where it is known.
        pixel_spacing_mm: size of the file's pixels at the detector, where it is known.
        boxes: where findings were seen.
        named: what an error message calls it, "" where that is ``source``; never written down, for a file's name may
            be a patient's.
        files: what pixels and mask are read from, where they are read from files.
    """

    view_id: str
    projection: Projection
    source: str
    load: Callable[[], Pixels]
    load_mask: Callable[[], MaskU8] | None = None
    called: str = ""
    manufacturer: str | None = None
    pixel_spacing_mm: float | None = None
    boxes: tuple[Box, ...] = ()
    named: str = ""
    files: tuple[Path, ...] = ()

    @property
    def position(self) -> str:
        """The projection as it conditions synthesis: frontal, lateral or unknown."""
        return self.projection if self.projection in {"lateral", "unknown"} else "frontal"


@dataclass(frozen=True)
class Study:
    """One imaging study: a report, or what else is said of its findings, and zero or more views.

    Attributes:
        study_id: unique in the corpus.
        patient_id: what the split is made by; equals study_id where the source names no patient.
        findings: findings section, "" when absent. Raw text: de-identification marks are still in it.
        impression: impression section, "" when absent.
        views: may be empty: reports without images still mine and prompt.
        given: what is said of findings beside the report; a chest that is called normal has ``NO_FINDING`` present.
        sex: F or M, None where it is unknown.
        age: in years, None where it is unknown.
        race: as the source calls it, None where it is unknown.
        split: the one that the source itself puts it in (train, val or test); None where it has none.
        truth: known labels, from a phantom only; never read by training or synthesis, only by the oracle.
        left_out: parts of the report that aren't read, in order.
    """

    study_id: str
    patient_id: str
    findings: str
    impression: str
    views: tuple[View, ...] = ()
    given: tuple[Given, ...] = ()
    sex: str | None = None
    age: int | None = None
    race: str | None = None
    split: str | None = None
    truth: Mapping[str, object] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    @property
    def report(self) -> str:
        """Findings and impression, joined by a space; history, indication and comparison are never part."""
        return " ".join(part for part in (self.findings.strip(), self.impression.strip()) if part)


@dataclass(frozen=True)
class Recognised:
    """What a folder or file seems to be.

    Attributes:
        what: its layout, in words.
        settings: of section corpus that read it, e.g. ``{"kind": "nih", "path": "/data/nih"}``.
        found: what is there, a line each.
        missing: what isn't, though a reader could use it, a line each.
        rank: 0 for an archive's own layout, higher for one that many folders have.
    """

    what: str
    settings: Mapping[str, object]
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True)
class BadRow:
    """A row or an image that a reader had to skip.

    Attributes:
        named: as ``View``'s.
    """

    source: str
    row: int | None
    reason: str
    named: str = ""


@dataclass(frozen=True)
class Source:
    """An opened corpus.

    Attributes:
        studies: yields studies, or the rows that can't be one.
        total: how many rows it yields.
        licence: what the source's terms are, for the dataset card.
        splits: of train, val and test those that the source itself puts studies in.
        drawn: whether the films are made as they are read, so that nothing can be wrong with them.
    """

    studies: Iterable[Study | BadRow]
    total: int
    licence: str
    splits: frozenset[str] = frozenset()
    drawn: bool = False
