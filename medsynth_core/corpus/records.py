"""The records that every corpus reader yields: one study, its views, its report; and the source that yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from medsynth_core.corpus.sections import LeftOut

ImageU8 = npt.NDArray[np.uint8]
"""Grayscale image, uint8, shape [height, width], 0 = black .. 255 = white, air dark and bone bright."""

ORGANS = ("right lung", "left lung", "heart")
"""What a mask tells apart, by the patient's side: number 1, 2, 3; 0 is neither."""

UNMASKED = 255
"""Number in the mask of an image that came without one."""

MaskU8 = npt.NDArray[np.uint8]
"""Numbers of organs, uint8, shape [height, width]."""

ViewPosition = Literal["frontal", "lateral", "unknown"]


@dataclass(frozen=True)
class View:
    """One radiograph of a study.

    Attributes:
        view_id: unique in the corpus; derived from the file name or the phantom's index.
        position: projection, reduced to what conditions synthesis ("PA" and "AP" are both frontal).
        source: where the pixels come from, for error messages (a path, or ``phantom:<index>``).
        load: returns the image as uint8 [height, width] in the file's own size; raises InputError when the
            image can't be read. Called at most once, by the corpus stage.
        load_mask: returns the organs in it, of the same height and width; None where nobody drew them.
    """

    view_id: str
    position: ViewPosition
    source: str
    load: Callable[[], ImageU8]
    load_mask: Callable[[], MaskU8] | None = None


@dataclass(frozen=True)
class Study:
    """One imaging study: a report and zero or more views.

    Attributes:
        study_id: unique in the corpus.
        patient_id: what the split is made by; equals study_id where the source names no patient.
        findings: findings section, "" when absent. Raw text: de-identification marks are still in it.
        impression: impression section, "" when absent.
        views: may be empty: reports without images still mine and prompt.
        truth: known labels, from a phantom only; never read by training or synthesis, only by the oracle.
        left_out: parts of the report that aren't read, in order.
    """

    study_id: str
    patient_id: str
    findings: str
    impression: str
    views: tuple[View, ...] = ()
    truth: Mapping[str, object] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    @property
    def report(self) -> str:
        """Findings and impression, joined by a space; history, indication and comparison are never part."""
        return " ".join(part for part in (self.findings.strip(), self.impression.strip()) if part)


@dataclass(frozen=True)
class BadRow:
    """A row or an image that a reader had to skip."""

    source: str
    row: int | None
    reason: str


@dataclass(frozen=True)
class Source:
    """An opened corpus.

    Attributes:
        studies: yields studies, or the rows that can't be one.
        total: how many rows it yields.
        licence: what the source's terms are, for the dataset card.
    """

    studies: Iterator[Study | BadRow]
    total: int
    licence: str
