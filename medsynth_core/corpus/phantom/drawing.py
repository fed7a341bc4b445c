"""Drawing of a phantom frontal radiograph, as sums of smooth shapes of attenuation.

Coordinates run over [-1, 1], x to the image's right (the patient's left) and y down, at any size. Attenuation
is about 0 for air and 1 for bone; the film is bright where it is high.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medsynth_core.corpus.phantom.case import Case, Finding, Patient
from medsynth_core.corpus.records import ImageU8, MaskU8
from medsynth_core.random import stream

Field = npt.NDArray[np.floating]
"""float32 [size, size]."""

_EXTENT = {"mild": 0.0, "moderate": 0.5, "severe": 1.0}
_ZONE_Y = {"upper": -0.42, "middle": -0.08, "lower": 0.20}
_SIGNS = {"right": (-1,), "left": (1,), "bilateral": (-1, 1), "none": ()}


@dataclass
class Geometry:
    """Shapes of one phantom that the findings move before they are drawn; index 0 is the right, 1 the left."""

    heart_radius: float
    dome_y: list[float]
    dome_curve: float
    lung_width: float
    apex_y: float
    lung_air: float


def render(case: Case, size: int) -> ImageU8:
    """Returns the film of a case, uint8 [size, size]."""
    patient, shape, x, y = _posed(case, size)
    lungs = [_lung(sign, patient, shape, x, y) for sign in (-1, 1)]
    both = lungs[0] + lungs[1]
    film = _body(x, y) - shape.lung_air * both
    film += (0.035 * both + 0.02) * _ribs(patient, x, y) * (np.abs(x) < 0.85)
    film = film + 0.13 * np.exp(-np.square(x / 0.11)) * (y > -0.95)
    film += 0.06 * _band(y - patient.clavicle_y - 0.22 * np.square(np.abs(x) - 0.1), 0.028) * (np.abs(x) < 0.72)
    for sign in (-1, 1):
        film += 0.09 * _blob(x - sign * 0.17, y + 0.10, 0.075, 0.11)
    heart = _heart(patient, shape, x, y)
    film += heart * (0.10 + 0.9 * both.clip(0, 1)) * 0.36
    lungs = [lung * (1.0 - 0.85 * heart) for lung in lungs]
    for finding in case.findings:
        for sign in _SIGNS[finding.side]:
            film += _DRAW.get(finding.pathology, _nothing)(finding, sign, patient, shape, lungs, x, y)
    draw = stream(case.seed, "phantom.noise", case.index)
    film += patient.noise * draw.standard_normal(film.shape, dtype=np.float32)
    film = np.power(film.clip(0.0, 1.0), patient.exposure)
    return np.rint(255.0 * film).astype(np.uint8)


def render_mask(case: Case, size: int) -> MaskU8:
    """Returns the organs of a case, numbers of ``records.ORGANS``, uint8 [size, size]; the heart hides the lungs."""
    patient, shape, x, y = _posed(case, size)
    mask = np.zeros((size, size), dtype=np.uint8)
    organs = [*(_lung(sign, patient, shape, x, y) for sign in (-1, 1)), _ventricles(patient, shape, x, y)]
    for number, organ in enumerate(organs, 1):
        mask[organ > 0.5] = number
    return mask


def _posed(case: Case, size: int) -> tuple[Patient, Geometry, Field, Field]:
    """Returns the patient, what the findings make of the patient's shapes, and coordinates [size, size]."""
    patient = case.patient
    x, y = _grid(size)
    return patient, _geometry(case), x + patient.shift_x + patient.tilt * y, y


def _geometry(case: Case) -> Geometry:
    patient = case.patient
    shape = Geometry(
        heart_radius=patient.heart_radius,
        dome_y=[patient.dome_y, patient.dome_y + patient.dome_drop],
        dome_curve=0.22,
        lung_width=patient.width,
        apex_y=patient.apex_y,
        lung_air=0.40,
    )
    for finding in case.findings:
        extent = _EXTENT[finding.severity]
        if finding.pathology == "cardiomegaly":
            shape.heart_radius *= 1.35 + 0.35 * extent
        elif finding.pathology == "emphysema":
            shape.dome_y = [height + 0.12 + 0.08 * extent for height in shape.dome_y]
            shape.dome_curve = 0.04
            shape.lung_width *= 1.06
            shape.lung_air += 0.06 + 0.05 * extent
            shape.heart_radius *= 0.84
        elif finding.pathology == "elevated hemidiaphragm":
            for sign in _SIGNS[finding.side]:
                shape.dome_y[(sign + 1) // 2] -= 0.22 + 0.16 * extent
    return shape


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Field, Field]:
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _soft(value: Field, sharpness: float) -> Field:
    """Smooth step: 0 below zero, 1 above, over about 4 / sharpness."""
    return 0.5 + 0.5 * np.tanh(np.float32(0.5 * sharpness) * value)


def _blob(dx: Field, dy: Field, width: float, height: float) -> Field:
    return np.exp(-np.square(dx / np.float32(width)) - np.square(dy / np.float32(height)))


def _band(distance: Field, width: float) -> Field:
    return np.exp(-np.square(distance / np.float32(width)))


def _body(x: Field, y: Field) -> Field:
    """Torso and shoulders; outside is air."""
    shoulder = 0.98 - 0.55 * np.exp(-np.square((y + 1.05) / np.float32(0.22)))
    return 0.04 + 0.52 * _soft(shoulder - np.abs(x), 30.0)


def _dome(sign: int, patient: Patient, shape: Geometry, x: Field) -> Field:
    """Height of the diaphragm along x."""
    dx = (x - sign * patient.lung_x) / patient.width
    return shape.dome_y[(sign + 1) // 2] + np.float32(shape.dome_curve) * np.square(dx)


def _lung(sign: int, patient: Patient, shape: Geometry, x: Field, y: Field) -> Field:
    """Share of aerated lung, 0 to 1."""
    middle = shape.apex_y + patient.height
    dy = (y - middle) / np.float32(patient.height * 1.02)
    widen = 1.0 + 0.16 * dy
    dx = (x - sign * patient.lung_x) / (np.float32(shape.lung_width) * widen)
    radius = np.square(dx) + np.where(dy < 0, np.square(dy), np.square(0.35 * dy))
    return _soft(1.0 - radius, 12.0) * _soft(_dome(sign, patient, shape, x) - y, 40.0)


def _ribs(patient: Patient, x: Field, y: Field) -> Field:
    ax = np.abs(x)
    phase = (y + patient.rib_slope * np.square(ax) * 1.6 - 0.25 * ax) / patient.rib_pitch + patient.rib_phase
    return np.cos(np.float32(2 * np.pi) * phase).clip(0, None)


def _heart(patient: Patient, shape: Geometry, x: Field, y: Field) -> Field:
    """Heart and great vessels."""
    vessels = _soft(0.13 - np.abs(x - 0.01), 35.0) * _soft(0.25 - y, 20.0) * _soft(y + 0.55, 12.0)
    return np.maximum(_ventricles(patient, shape, x, y), 0.8 * vessels)


def _ventricles(patient: Patient, shape: Geometry, x: Field, y: Field) -> Field:
    radius = shape.heart_radius
    dx = (x - patient.heart_x * radius / patient.heart_radius) / np.float32(radius)
    dy = (y - 0.24) / np.float32(0.20 + 0.5 * radius - 0.135 + 0.13)
    return _soft(1.0 - np.square(dx) - np.square(dy) + 0.35 * dx * dy, 9.0)


def _nothing(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Findings that the geometry already shows."""
    return np.zeros_like(x)


def _effusion(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Fluid in the dependent space, its meniscus rising to the chest wall."""
    outward = (x * sign - patient.lung_x) / patient.width
    level = shape.dome_y[(sign + 1) // 2] - 0.06 - 0.36 * _EXTENT[finding.severity]
    surface = level - 0.11 * np.square((outward + 0.9).clip(0, None)) * 0.5 + 0.05
    return np.float32(0.40) * lungs[(sign + 1) // 2] * _soft(y - surface, 28.0)


def _pneumothorax(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Air between chest wall and a lung that has shrunk towards its hilum, with the pleural line."""
    lung = lungs[(sign + 1) // 2]
    shrink = 0.80 - 0.24 * _EXTENT[finding.severity]
    dx = (x * sign - 0.14) / np.float32(shape.lung_width * 1.75 * shrink)
    dy = (y - 0.10) / np.float32(patient.height * 1.18 * shrink)
    inside = _soft(1.0 - np.square(dx) - np.square(dy), 16.0)
    edge = 4.0 * inside * (1.0 - inside)
    collapsed = np.float32(0.13 + 0.07 * _EXTENT[finding.severity])
    return lung * (-0.13 * (1.0 - inside) + collapsed * inside + 0.12 * edge)


def _consolidation(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Airspace filled in one zone, its border soft and uneven."""
    extent = 0.17 + 0.09 * _EXTENT[finding.severity]
    centre_x, centre_y = sign * (patient.lung_x + 0.02), _ZONE_Y[finding.zone or "lower"]
    uneven = 0.10 * np.sin(9.0 * x + 3.0 * y + patient.rib_phase * 6) * np.cos(8.0 * y - 2.0 * x)
    radius = np.square((x - centre_x) / np.float32(extent)) + np.square((y - centre_y) / np.float32(extent * 0.9))
    return np.float32(0.34) * lungs[(sign + 1) // 2] * _soft(1.1 + 2.5 * uneven - radius, 3.5)


def _nodule(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """A round, sharply bordered spot."""
    extent = 0.065 + 0.035 * _EXTENT[finding.severity]
    centre_x = sign * (patient.lung_x + 0.06 * np.cos(patient.rib_phase * 6))
    centre_y = _ZONE_Y[finding.zone or "middle"] + 0.04 * np.sin(patient.rib_phase * 6)
    radius = np.sqrt(np.square(x - np.float32(centre_x)) + np.square(y - np.float32(centre_y)))
    return np.float32(0.42) * lungs[(sign + 1) // 2] * _soft(np.float32(extent) - radius, 55.0)


def _edema(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Perihilar haze in the shape of a bat's wing, with fine lines."""
    extent = _EXTENT[finding.severity]
    haze = _blob(x - sign * 0.28, y + 0.02, 0.26 + 0.05 * extent, 0.34)
    lines = 1.0 + 0.25 * np.sin(31.0 * (y + 0.6 * np.abs(x)))
    return np.float32(0.19 + 0.12 * extent) * lungs[(sign + 1) // 2] * haze * lines


def _atelectasis(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """Plates of collapsed lung above the diaphragm."""
    extent = _EXTENT[finding.severity]
    base = shape.dome_y[(sign + 1) // 2]
    slant = 0.10 * (x * sign - patient.lung_x)
    span = _soft(0.27 - np.abs(x * sign - patient.lung_x - 0.02), 25.0)
    plates = _band(y - (base - 0.13) + slant, 0.035 + 0.008 * extent)
    plates = plates + (0.5 + 0.5 * extent) * _band(y - (base - 0.27) - slant, 0.032)
    return np.float32(0.27 + 0.07 * extent) * lungs[(sign + 1) // 2] * span * plates


def _hilum(
    finding: Finding, sign: int, patient: Patient, shape: Geometry, lungs: list[Field], x: Field, y: Field
) -> Field:
    """A full, lobulated hilum."""
    extent = _EXTENT[finding.severity]
    radius = 0.105 + 0.035 * extent
    mass = _blob(x - sign * 0.235, y + 0.15, radius, radius * 1.1) + 0.8 * _blob(
        x - sign * 0.22, y + 0.0, radius * 0.85, radius * 0.85
    )
    return np.float32(0.36) * lungs[(sign + 1) // 2] * mass.clip(0, 1)


_DRAW = {
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "lung nodule": _nodule,
    "pulmonary edema": _edema,
    "atelectasis": _atelectasis,
    "hilar enlargement": _hilum,
}
