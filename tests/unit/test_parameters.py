"""A stage is given what it declares, by the names and types of params.yaml."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from medsynth_core.config import Section
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import STAGES, Stage
from medsynth_core.workspace.tree import Config


def type_at(path: str) -> Any:
    """Returns the type of a place in the tree, without its bounds."""
    kind: Any = Config
    for part in path.split("."):
        assert isinstance(kind, type)
        assert issubclass(kind, Section), f"{path}: {kind} is a value"
        kind = get_type_hints(kind)[part]
    return kind


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_declarations_are_those_of_the_tree(stage: Stage) -> None:
    hints = get_type_hints(stage.params)
    for name, path in stage.params.places().items():
        assert hints[name] == type_at(path), f"{stage.params.__name__}.{name} is declared otherwise than {path}"
    for path in stage.paths:
        assert type_at(path) is not None


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_values_are_under_the_paths_that_dvc_lists(stage: Stage) -> None:
    assert tuple(stage.params.of(Config()).values()) == stage.params.paths()


def test_what_changes_no_output_is_in_no_value() -> None:
    plain = SynthesisParams.of(Config())
    moved = SynthesisParams.of(configure(["synthesis.batch_size=3", "device=cpu", "runner.in_flight=5"]))
    assert (moved.synthesis.batch_size, moved.device, moved.in_flight) == (3, "cpu", 5)
    assert moved.values() == plain.values()
    assert SynthesisParams.of(configure(["synthesis.top_p=0.5"])).values() != plain.values()
    assert SynthesisParams.of(configure(["release.split=val"])).values() != plain.values()
