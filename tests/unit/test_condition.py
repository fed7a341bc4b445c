"""What an image is asked to be: the same from the prompt table to the manifest, each part known or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medsynth_core.config import Paths
from medsynth_core.hashing import sha256_json
from medsynth_core.manifest import table_of
from medsynth_core.models.codebook import Keypatch
from medsynth_core.models.condition import Condition, RequestedFinding
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.workspace.tree import Config

EFFUSION = {"pathology": "pleural effusion", "anatomy": "pleura", "side": "left", "severity": "moderate"}
NODULE = {"pathology": "lung nodule", "anatomy": None, "side": "none", "severity": None}
ASKED = Condition((EFFUSION, NODULE), "lateral")
NORMAL = Condition((), "frontal")


def test_the_identity_of_a_prompt_stays() -> None:
    """The literal was hashed when a prompt had findings and a view of its own; another one makes all images anew."""
    row = PromptRow("p00007", "Moderate left pleural effusion. A nodule.", ASKED)
    assert row.identity() == {
        "id": "p00007",
        "text": "Moderate left pleural effusion. A nodule.",
        "query": "moderate left pleural effusion in pleura, lung nodule",
        "view": "lateral",
    }
    assert sha256_json(row.identity()) == "946b5b5f14cc863b6523c6ff07556b0ca8c56f50ce9237be428a4c8f6f930d6d"


def test_what_a_request_is_called_stays() -> None:
    """Drafts are kept by it: another name, and they are paid again."""
    request = PromptRequest("p0", tuple(RequestedFinding(**each) for each in ASKED.findings), "lateral")  # type: ignore[arg-type]
    assert request.content == {"prompt_id": "p0", "findings": (EFFUSION, NODULE), "view": "lateral"}
    assert request.condition == ASKED


@pytest.mark.parametrize("condition", [ASKED, NORMAL, replace(ASKED, view=None)])
def test_a_row_of_the_manifest_gives_its_condition_back(condition: Condition) -> None:
    (row,) = table_of([condition.columns()]).to_pylist()
    assert Condition.of(row) == condition
    assert Condition.of({"findings": list(condition.findings), "view": condition.view}) == condition


def test_columns_name_places_once_and_pathologies_in_order() -> None:
    twice = Condition((EFFUSION, NODULE, EFFUSION), "frontal").columns()
    assert twice["anatomy"] == ["pleura"]
    assert twice["pathology"] == ["pleural effusion", "lung nodule", "pleural effusion"]


def test_what_the_language_model_reads() -> None:
    assert (ASKED.query, NORMAL.query) == ("moderate left pleural effusion in pleura, lung nodule", "normal chest")
    assert ASKED.text("report", "As written.") == "As written."
    assert ASKED.text("labels", "As written.") == "lung nodule, pleural effusion"
    assert NORMAL.text("labels", "As written.") == "normal"


def test_guidance_leaves_the_findings_out_and_keeps_the_rest() -> None:
    assert ASKED.unconditional() == Condition((), "lateral")
    assert len({ASKED.unconditional(), Condition((NODULE,), "lateral").unconditional(), NORMAL.unconditional()}) == 2


def test_an_unknown_view_has_no_marker(trained: tuple[Config, Paths]) -> None:
    model = ImageLanguageModel.load(trained[1]["llm"])
    at, patches = model.layout, [Keypatch(0, 3, 5, 0.5, "effusion")]
    view, unknown = at.marker("lateral"), replace(ASKED, view=None)
    pairs = [
        (model.prefix(ASKED, "Clear.", patches), model.prefix(unknown, "Clear.", patches)),
        (model.reverse_prefix([1, 2], ASKED), model.reverse_prefix([1, 2], unknown)),
        (model.empty_prefix(ASKED), model.empty_prefix(unknown)),
    ]
    for known, other in pairs:
        assert known.ids[1] == view
        assert other.ids == [known.ids[0], *known.ids[2:]]
        assert len(other.cells) == len(other.ids)
    assert pairs[2][0] == model.prefix(Condition((), "lateral"), "", [])
