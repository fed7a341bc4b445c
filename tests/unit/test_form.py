"""The form of a run: what it offers, and what it becomes."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from flows.form import Changes, Override, as_overrides
from medsynth_core.workspace.params import configure


def test_what_is_filled_in_becomes_overrides_and_what_is_said_besides_wins() -> None:
    filled = Changes.model_validate({"prompts": {"n": 500}, "release": {"parent": "synthetic-cxr-v3"}, "runner": {}})
    overrides = as_overrides(filled, ["prompts.n=7", "seed=2"])
    assert overrides == ["prompts.n=500", 'release.parent="synthetic-cxr-v3"', "prompts.n=7", "seed=2"]
    config = configure(overrides)
    assert (config.prompts.n, config.release.parent, config.seed) == (7, "synthetic-cxr-v3", 2)
    assert as_overrides(Changes(), None) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompts": {"n": -1}},
        {"prompts": {"provider": "nobody"}},
        {"synthesis": {"top_p": 1.5}},
        {"runner": {"kind": "mpi"}},
        {"release": {"name": "With Spaces"}},
        {"prompts": {"number": 3}},
    ],
)
def test_what_the_tree_refuses_the_form_refuses(wrong: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        Changes.model_validate(wrong)


def test_any_key_of_the_tree_can_be_said_besides() -> None:
    said = TypeAdapter(list[Override])
    for each in (
        "seed=2",
        "release.quotas.large left pleural effusion=200",
        "prompts.targets={a: 1}",
        "release.parent=",
    ):
        assert said.validate_python([each]) == [each]
    for wrong in ("prompts.n", "=3", "prompts..n=3"):
        with pytest.raises(ValidationError):
            said.validate_python([wrong])


def test_every_field_has_help() -> None:
    for section in Changes.model_json_schema()["$defs"].values():
        assert all(field["description"] for field in section["properties"].values())
