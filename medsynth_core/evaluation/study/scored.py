"""What a scored study says: the records that tables and JSON are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from medsynth_core.evaluation.study.estimates import Estimate
from medsynth_core.evaluation.study.films import Origin

ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True)
class Agreement:
    """A finding that was prompted or reported against what readers ticked, in films of one origin.

    Attributes:
        finding: None: all findings, each of each film a decision.
        labelled, ticked, both: decisions.
    """

    finding: str | None
    labelled: int
    ticked: int
    both: int
    kappa: Estimate


@dataclass(frozen=True)
class Told:
    """How real and synthetic films were told apart.

    Attributes:
        confusion: numbers of films by what they are, then by what they were taken for.
        sensitivity: share of the synthetic films that were recognised.
        specificity: share of the real films that were taken for real.
        realism: mean from 1 to 5 by what the films are.
        realism_auc: how often a real film is given a higher one than a synthetic film; ties count half, 0.5: alike.
        realism_p: of the Mann-Whitney test; of one reader.
        agreement: of findings with prompts (synthetic) and with reports (real), all findings first.
    """

    confusion: dict[str, dict[str, int]]
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    realism: dict[str, Estimate]
    realism_auc: Estimate
    realism_p: float | None
    agreement: dict[str, list[Agreement]]


@dataclass(frozen=True)
class ReaderScore:
    """One reader.

    Attributes:
        complete, origin, findings, realism: films of which all was answered, or this.
        median_seconds: on a film with an answer.
    """

    reader: str
    role: str
    years: float | None
    saved: str
    complete: int
    origin: int
    findings: int
    realism: int
    median_seconds: float | None
    told: Told


@dataclass(frozen=True)
class Mistaken:
    """A finding that was missed in films of one origin, and what was ticked instead; "" is nothing but what is there.

    Attributes:
        n: times, over all readers.
    """

    origin: str
    labelled: str
    ticked: str
    n: int


@dataclass(frozen=True)
class Remark:
    """What a reader wrote of a film."""

    number: int
    film: str
    origin: str
    reader: str
    remark: str


@dataclass(frozen=True)
class StudyScore:
    """A scored study.

    Attributes:
        together: of all readers, the mean over them; None where there is one.
        between: agreement of readers, the mean of Cohen's kappa over pairs of them: of origin, of all findings, and of
            realism with quadratic weights; empty where there is one.
        mistaken: the commonest first.
    """

    study: str
    release: str
    n_films: int
    readers: list[ReaderScore]
    together: Told | None
    between: dict[str, Estimate]
    mistaken: list[Mistaken]
    remarks: list[Remark]
