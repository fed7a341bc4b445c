"""The arithmetic of benchmarks/method.py; the run itself takes an hour."""

import numpy as np
import pytest

from benchmarks.method import (
    ARMS,
    BOUND,
    PHANTOMS,
    Figures,
    _as_drawn,
    _diversity,
    _drawn,
    _interval,
    _tables,
    free_prompt,
)
from medsynth_core.corpus.phantom import PATHOLOGIES
from medsynth_core.models.condition import Condition
from medsynth_core.synthesis.inputs import PromptRow

FINDING = {"pathology": "lung nodule", "anatomy": "upper lobe", "side": "left", "severity": None}
PROMPT = PromptRow("p00001", "Left upper lobe nodule.", Condition((FINDING,), "frontal"))


def test_an_interval_is_students() -> None:
    assert _interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-5))


def test_a_free_prompt_names_the_class_alone() -> None:
    bare = free_prompt(PROMPT)
    assert bare.text == "A chest X-ray of a patient with lung nodule."
    assert bare.query == "lung nodule"


def test_phantoms_show_what_the_prompt_asks_for() -> None:
    finding = _as_drawn(FINDING)
    assert (finding.pathology, finding.side, finding.severity, finding.zone) == (
        "lung nodule",
        "left",
        "moderate",
        "upper",
    )
    normal = PromptRow("p00002", "Clear.", Condition((), "frontal"))
    with_nodule, without = _drawn([PROMPT], 5, 64)[0], _drawn([normal], 5, 64)[0]
    rows, columns = np.nonzero(with_nodule != without)
    assert rows.size
    assert rows.max() < 32 < columns.min(), "the patient's left is on the image's right"


def test_equal_images_have_no_diversity() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 64), dtype=np.uint8)
    assert _diversity(np.repeat(image, 2, 0), 2) == pytest.approx(0.0, abs=1e-5)


def test_the_gain_is_paired_by_seed() -> None:
    def rows(*levels: float) -> list[Figures]:
        return [Figures(np.full(len(PATHOLOGIES), level), 1.0, 1.0, 0.0, 2.0, 0.1) for level in levels]

    found = {arm.name: rows(0.6, 0.7, 0.8) for arm in ARMS} | {BOUND: rows(1, 1, 1), PHANTOMS: rows(1, 1, 1)}
    found["full method"] = rows(0.8, 0.9, 1.0)
    table = _tables(found)
    assert "| no keypatches | 0.700 ± 0.248 | 0.200 ± 0.000 |" in table
    assert "| full method | 0.900 ± 0.248 | – |" in table
