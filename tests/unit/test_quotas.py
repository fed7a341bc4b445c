"""Quotas: how they are read and what counts for them."""

from __future__ import annotations

from typing import Any

import pytest

from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError
from medsynth_core.prompts.quotas import Quota, parse_quotas, tally, targets_with_quotas
from medsynth_core.prompts.settings import PromptsParams
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.tree import Config
from tests.conftest import tiny


@pytest.fixture(scope="module")
def vocabulary(trained: tuple[Config, Paths]) -> Vocabulary:
    return Vocabulary.load(trained[1]["vocabulary"] / "vocabulary.json")


def label(pathology: str, side: str = "none", severity: str | None = None) -> dict[str, Any]:
    return {"pathology": pathology, "anatomy": None, "side": side, "severity": severity}


ROWS = [
    {"labels": [label("pleural effusion", "left", "severe")], "view": "frontal"},
    {"labels": [label("pleural effusion", "right", "severe"), label("cardiomegaly")], "view": "frontal"},
    {"labels": [label("pleural effusion", "left", "mild")], "view": "lateral"},
    {"labels": [label("pneumothorax", "left", "severe")], "view": "frontal"},
    {"labels": [], "view": "frontal"},
]


@pytest.mark.parametrize(
    ("text", "quota", "n"),
    [
        ("pleural effusion", ("pleural effusion", None, None, None), 3),
        ("left pleural effusion", ("pleural effusion", "left", None, None), 2),
        ("large left pleural effusion", ("pleural effusion", "left", "severe", None), 1),
        ("Lateral pleural effusion", ("pleural effusion", None, None, "lateral"), 1),
        ("frontal", (None, None, None, "frontal"), 4),
        ("normal", ("", None, None, None), 1),
        ("lateral normal", ("", None, None, "lateral"), 0),
        ("enlarged heart", ("cardiomegaly", None, None, None), 1),
    ],
)
def test_a_quota_is_read_as_a_report_is(
    vocabulary: Vocabulary, text: str, quota: tuple[str | None, ...], n: int
) -> None:
    parsed = parse_quotas({text: 7}, vocabulary)
    assert parsed == [Quota(text, *quota, n=7)]
    assert tally(parsed, ROWS) == [n]


@pytest.mark.parametrize("text", ["no pleural effusion", "effusion and pneumothorax", "hangnail"])
def test_what_is_no_finding_is_named(vocabulary: Vocabulary, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^release\.quotas: "):
        parse_quotas({text: 1}, vocabulary)


def test_a_quota_leads_the_prompts_that_it_needs(vocabulary: Vocabulary) -> None:
    wanting = tiny(
        prompts={"targets": {"pneumothorax": 9}},
        release={"quotas": {"left pneumothorax": 10, "lateral cardiomegaly": 50, "normal": 3, "pneumothorax": 8}},
    )
    assert targets_with_quotas(PromptsParams.of(wanting), vocabulary) == {"pneumothorax": 9, "left pneumothorax": 3}
