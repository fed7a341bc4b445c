import numpy as np
import pytest

from medsynth_core.corpus.phantom import PATHOLOGIES, Finding, phantom_study, render_findings
from medsynth_core.vocabulary.mining import mine_report, positive_findings


def test_a_study_depends_on_seed_and_index_alone() -> None:
    later = phantom_study(3, 40, 64)
    for index in range(5):
        phantom_study(3, index, 64)
    again = phantom_study(3, 40, 64)
    assert (again.report, again.truth) == (later.report, later.truth)
    assert np.array_equal(again.views[0].load(), later.views[0].load())
    assert not np.array_equal(phantom_study(4, 40, 64).views[0].load(), later.views[0].load())


def test_second_studies_share_the_patient() -> None:
    assert phantom_study(0, 6, 32).patient_id == phantom_study(0, 5, 32).patient_id
    assert phantom_study(0, 6, 32).study_id != phantom_study(0, 5, 32).study_id


@pytest.mark.parametrize("name", ["pleural effusion", "pneumothorax", "consolidation", "lung nodule", "atelectasis"])
def test_a_sided_finding_is_drawn_on_the_patients_side(name: str) -> None:
    plain = render_findings((), 1, 5, 64).astype(int)
    right = render_findings((Finding(name, "lung", "right", "severe", "upper"),), 1, 5, 64) - plain
    assert np.abs(right[:, :32]).sum() > 5 * np.abs(right[:, 32:]).sum(), "the patient's right is on the image's left"


def test_severity_scales_the_extent() -> None:
    plain = render_findings((), 1, 5, 64).astype(int)
    changed = [
        np.abs(render_findings((Finding("pleural effusion", "pleura", "left", level),), 1, 5, 64) - plain).sum()
        for level in ("mild", "moderate", "severe")
    ]
    assert changed == sorted(changed)


def test_every_report_says_what_is_drawn() -> None:
    """The miner that reads real reports must find exactly the drawn findings, sides and severities."""
    for index in range(400):
        study = phantom_study(9, index, 32)
        drawn = {(f["pathology"], f["side"], f["severity"]) for f in study.truth["findings"]}
        mined = positive_findings(mine_report(study.report))
        assert {(f["pathology"], f["side"], f["severity"]) for f in mined} == drawn, study.report


def test_all_pathologies_occur_and_a_quarter_is_normal() -> None:
    studies = [phantom_study(2, index, 32) for index in range(600)]
    seen = {f["pathology"] for study in studies for f in study.truth["findings"]}
    assert seen == set(PATHOLOGIES)
    normal = sum(not study.truth["findings"] for study in studies) / len(studies)
    assert 0.2 < normal < 0.36
