"""The report of a phantom: findings and impression in varied radiology wording, negations included."""

from __future__ import annotations

import numpy as np

from medsynth_core.corpus.phantom.case import PATHOLOGIES, Case, Finding
from medsynth_core.random import stream

SYNONYMS: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("pleural effusion",),
    "cardiomegaly": ("cardiomegaly", "enlargement of the cardiac silhouette", "cardiac enlargement"),
    "pneumothorax": ("pneumothorax",),
    "consolidation": ("consolidation", "airspace consolidation"),
    "lung nodule": ("pulmonary nodule", "lung nodule", "nodule"),
    "pulmonary edema": ("pulmonary edema", "interstitial edema"),
    "atelectasis": ("atelectasis", "subsegmental atelectasis"),
    "emphysema": ("emphysema", "emphysematous change"),
    "hilar enlargement": ("hilar enlargement", "enlargement of the hilum"),
    "elevated hemidiaphragm": ("elevation of the hemidiaphragm", "elevated hemidiaphragm"),
}
"""What each pathology is called when it is present."""

_SEVERITY = {"mild": ("mild", "slight"), "moderate": ("moderate",), "severe": ("severe", "marked")}
_SIZE = {"mild": "small", "moderate": "moderate", "severe": "large"}
_SIZED = frozenset({"pleural effusion", "pneumothorax", "consolidation", "lung nodule"})
_PLACE: dict[str, tuple[str, ...]] = {
    "pleural effusion": ("in the pleural space", "at the costophrenic angle", ""),
    "pneumothorax": ("in the pleural space", ""),
    "atelectasis": ("at the lung base", "in the basal lung"),
    "cardiomegaly": ("",),
    "pulmonary edema": ("in the perihilar lungs", ""),
    "emphysema": ("in both lungs", ""),
    "hilar enlargement": ("",),
    "elevated hemidiaphragm": ("",),
}
_OPENINGS = ("There is {}.", "{} is seen.", "{} is present.", "{}.", "{} is noted.", "Findings of {}.")
_NEGATIONS = (
    "No {}.",
    "There is no {}.",
    "No evidence of {}.",
    "Negative for {}.",
    "{} is not seen.",
    "Without {}.",
)
_CLEAR = (
    "The lungs are clear.",
    "Lungs are well expanded and clear.",
    "Both lungs are clear.",
)
_HEART_NORMAL = (
    "Heart size is normal.",
    "The cardiac silhouette is within normal limits.",
    "Cardiomediastinal contours are normal.",
)
_BONES = ("The osseous structures are intact.", "Visualized bones are unremarkable.", "")
_NORMAL_IMPRESSION = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest.",
    "No acute disease.",
)
_DENIED = ("pneumothorax", "pleural effusion", "consolidation", "pulmonary edema")
_LUNG_FINDINGS = frozenset(PATHOLOGIES) - {"cardiomegaly", "elevated hemidiaphragm", "hilar enlargement"}


def write_report(case: Case) -> tuple[str, str]:
    """Returns (findings, impression) of a case; every positive names pathology, side and severity."""
    draw = stream(case.seed, "phantom.report", case.index)
    present = {finding.pathology for finding in case.findings}
    sentences = [_positive(finding, draw) for finding in case.findings]
    if not present & _LUNG_FINDINGS:
        sentences.append(_pick(_CLEAR, draw))
    if "cardiomegaly" not in present and draw.random() < 0.6:
        sentences.append(_pick(_HEART_NORMAL, draw))
    denied = [name for name in _DENIED if name not in present]
    draw.shuffle(denied)
    if len(denied) >= 2 and draw.random() < 0.8:
        sentences.append(_start(_pick(_NEGATIONS, draw).format(f"{denied[0]} or {denied[1]}")))
    sentences.append(_pick(_BONES, draw))
    order = draw.permutation(len(sentences)) if draw.random() < 0.4 else np.arange(len(sentences))
    findings = " ".join(sentences[i] for i in order if sentences[i])
    if case.findings:
        impression = " ".join(_start(f"{_phrase(finding, draw)}.") for finding in case.findings)
    else:
        impression = _pick(_NORMAL_IMPRESSION, draw)
    return findings, impression


def _positive(finding: Finding, draw: np.random.Generator) -> str:
    place = _where(finding, draw)
    return _start(_pick(_OPENINGS, draw).format(f"{_phrase(finding, draw)} {place}".strip()))


def _phrase(finding: Finding, draw: np.random.Generator) -> str:
    """``moderate left pleural effusion`` in one of its wordings."""
    sized = finding.pathology in _SIZED
    severity = _SIZE[finding.severity] if sized else _pick(_SEVERITY[finding.severity], draw)
    side = "" if finding.side == "none" else finding.side
    name = _pick(SYNONYMS[finding.pathology], draw)
    if " of the hemidiaphragm" in name or " of the hilum" in name:
        return (
            f"{severity} {name.replace('of the ', f'of the {side} ').replace('bilateral hilum', 'hilum bilaterally')}"
        )
    if finding.zone:
        name = f"{finding.anatomy} {name.removeprefix('lung ').removeprefix('pulmonary ')}"
    return " ".join(f"{severity} {side} {name}".split())


def _where(finding: Finding, draw: np.random.Generator) -> str:
    return _pick(_PLACE.get(finding.pathology, ("",)), draw)


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[draw.integers(len(options))]


def _start(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
