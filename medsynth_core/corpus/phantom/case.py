"""What a phantom shows: the patient's anatomy and findings, drawn from (seed, index) alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medsynth_core.random import stream

Side = Literal["left", "right", "bilateral", "none"]
Severity = Literal["mild", "moderate", "severe"]
Zone = Literal["upper", "middle", "lower"]

SEVERITIES: tuple[Severity, ...] = ("mild", "moderate", "severe")
SIDES: tuple[Side, ...] = ("left", "right")
ZONES: tuple[Zone, ...] = ("upper", "middle", "lower")

PREVALENCE: dict[str, float] = {
    "pleural effusion": 0.13,
    "cardiomegaly": 0.13,
    "consolidation": 0.11,
    "atelectasis": 0.10,
    "lung nodule": 0.10,
    "pneumothorax": 0.09,
    "pulmonary edema": 0.09,
    "emphysema": 0.09,
    "hilar enlargement": 0.08,
    "elevated hemidiaphragm": 0.08,
}
"""Chance that a finding leads a study that isn't normal, up to normalisation."""

PATHOLOGIES: tuple[str, ...] = tuple(PREVALENCE)
NORMAL_SHARE = 0.28
_SECOND_SHARE = 0.3
_COMPANIONS: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("cardiomegaly", "atelectasis", "consolidation"),
    "cardiomegaly": ("pulmonary edema", "pleural effusion"),
    "consolidation": ("pleural effusion", "hilar enlargement"),
    "atelectasis": ("pleural effusion", "elevated hemidiaphragm"),
    "lung nodule": ("hilar enlargement", "emphysema"),
    "pneumothorax": ("lung nodule", "atelectasis"),
    "pulmonary edema": ("cardiomegaly", "pleural effusion"),
    "emphysema": ("lung nodule", "consolidation"),
    "hilar enlargement": ("lung nodule", "consolidation"),
    "elevated hemidiaphragm": ("atelectasis",),
}
_NO_SIDE = frozenset({"cardiomegaly"})
_ALWAYS_BOTH = frozenset({"pulmonary edema", "emphysema"})
_MAY_BE_BOTH = frozenset({"pleural effusion", "hilar enlargement"})
_HAS_ZONE = frozenset({"consolidation", "lung nodule"})
_ANATOMY = {
    "pleural effusion": "pleura",
    "cardiomegaly": "heart",
    "pneumothorax": "pleura",
    "pulmonary edema": "lung",
    "atelectasis": "lung base",
    "emphysema": "lung",
    "hilar enlargement": "hilum",
    "elevated hemidiaphragm": "diaphragm",
}


@dataclass(frozen=True)
class Finding:
    """One finding of a phantom.

    Attributes:
        pathology: a name of ``PATHOLOGIES``.
        anatomy: where it is, e.g. ``heart`` or ``upper lobe``.
        side: the patient's side; the patient's right is on the image's left.
        severity: scales the visible extent.
        zone: height in the lung, for consolidation and nodule.
    """

    pathology: str
    anatomy: str
    side: Side
    severity: Severity
    zone: Zone | None = None


@dataclass(frozen=True)
class Patient:
    """Anatomical variation, in units of half the image side.

    Attributes:
        width, height: half extents of one lung.
        lung_x: distance of a lung's centre from the midline.
        apex_y: height of the lung tops (negative is up).
        dome_y: lowest height of the right diaphragm dome; the left one is ``dome_drop`` lower.
        heart_radius: horizontal; heart_x: shift to the patient's left.
        rib_pitch, rib_phase, rib_slope: spacing, offset and steepness of the ribs.
        exposure: gamma of the film; noise: standard deviation, share of full scale.
    """

    width: float
    height: float
    lung_x: float
    apex_y: float
    dome_y: float
    dome_drop: float
    heart_radius: float
    heart_x: float
    rib_pitch: float
    rib_phase: float
    rib_slope: float
    clavicle_y: float
    tilt: float
    shift_x: float
    exposure: float
    noise: float


@dataclass(frozen=True)
class Case:
    """One phantom study: patient, findings and the streams its pixels and its prose are drawn from."""

    seed: int
    index: int
    patient_index: int
    patient: Patient
    findings: tuple[Finding, ...]


def draw_case(seed: int, index: int) -> Case:
    """Returns the case of (seed, index), whatever else was drawn before.

    Every seventh index is a second study of the patient before it.
    """
    patient_index = index - 1 if index % 7 == 6 else index
    return Case(seed, index, patient_index, _draw_patient(seed, patient_index), _draw_findings(seed, index))


def case_with(findings: tuple[Finding, ...], seed: int, index: int) -> Case:
    """Returns the case of (seed, index) with other findings, so that a truth image can be drawn for a prompt."""
    case = draw_case(seed, index)
    return Case(seed, index, case.patient_index, case.patient, findings)


def _draw_patient(seed: int, patient_index: int) -> Patient:
    draw = stream(seed, "phantom.patient", patient_index)
    unit = (draw.standard_normal(13).clip(-2, 2) / 2).tolist()
    return Patient(
        width=0.33 + 0.035 * unit[0],
        height=0.60 + 0.05 * unit[1],
        lung_x=0.42 + 0.03 * unit[2],
        apex_y=-0.72 + 0.05 * unit[3],
        dome_y=0.42 + 0.06 * unit[4],
        dome_drop=0.05 + 0.02 * unit[5],
        heart_radius=0.27 + 0.025 * unit[6],
        heart_x=0.12 + 0.03 * unit[7],
        rib_pitch=0.155 + 0.012 * unit[8],
        rib_phase=float(draw.uniform(0, 1)),
        rib_slope=0.28 + 0.08 * unit[9],
        clavicle_y=-0.70 + 0.04 * unit[10],
        tilt=0.03 * unit[11],
        shift_x=0.03 * unit[12],
        exposure=float(draw.uniform(0.88, 1.14)),
        noise=float(draw.uniform(0.008, 0.016)),
    )


def _draw_findings(seed: int, index: int) -> tuple[Finding, ...]:
    draw = stream(seed, "phantom.findings", index)
    if draw.random() < NORMAL_SHARE:
        return ()
    weights = np.array(list(PREVALENCE.values()))
    lead = PATHOLOGIES[draw.choice(len(PATHOLOGIES), p=weights / weights.sum())]
    names = [lead]
    if draw.random() < _SECOND_SHARE:
        names.append(str(draw.choice(_COMPANIONS[lead])))
        if draw.random() < 0.12:
            names.append(PATHOLOGIES[draw.integers(len(PATHOLOGIES))])
    side = SIDES[draw.integers(2)]
    return tuple(_draw_finding(name, side, draw) for name in dict.fromkeys(names))


def _draw_finding(name: str, likely_side: Side, draw: np.random.Generator) -> Finding:
    severity = SEVERITIES[draw.integers(3)]
    side: Side = likely_side if draw.random() < 0.7 else SIDES[draw.integers(2)]
    if name in _NO_SIDE:
        side = "none"
    elif name in _ALWAYS_BOTH or (name in _MAY_BE_BOTH and draw.random() < 0.25):
        side = "bilateral"
    zone = ZONES[draw.integers(3)] if name in _HAS_ZONE else None
    anatomy = f"{zone} lobe" if zone in {"upper", "lower"} else "mid lung" if zone else _ANATOMY[name]
    return Finding(name, anatomy, side, severity, zone)
