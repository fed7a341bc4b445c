"""Phantom studies as corpus records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from medsynth_core.corpus.phantom.case import Finding, case_with, draw_case
from medsynth_core.corpus.phantom.drawing import render, render_mask
from medsynth_core.corpus.phantom.prose import write_report
from medsynth_core.corpus.records import ImageU8, Study, View


def phantom_study(seed: int, index: int, size: int) -> Study:
    """Returns the phantom study of (seed, index) with one frontal view of ``size`` x ``size`` pixels."""
    case = draw_case(seed, index)
    findings, impression = write_report(case)
    study_id = f"phantom-{seed}-{index:07d}"
    view = View(f"{study_id}-v0", "frontal", study_id, partial(render, case, size), partial(render_mask, case, size))
    return Study(
        study_id=study_id,
        patient_id=f"phantom-{seed}-p{case.patient_index:07d}",
        findings=findings,
        impression=impression,
        views=(view,),
        truth={"findings": [asdict(finding) for finding in case.findings]},
    )


def phantom_studies(seed: int, n: int, size: int) -> Iterator[Study]:
    """Yields phantom studies 0 .. n - 1 of a seed."""
    for index in range(n):
        yield phantom_study(seed, index, size)


def render_findings(findings: tuple[Finding, ...], seed: int, index: int, size: int) -> ImageU8:
    """Returns a truth image that shows the given findings in the patient of (seed, index), uint8 [size, size]."""
    return render(case_with(findings, seed, index), size)
