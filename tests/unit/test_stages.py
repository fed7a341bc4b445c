"""A stage that a command ran is up to date for the flow, until something it depends on changes."""

import json
from pathlib import Path

import pytest

from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import is_fresh, last_report, read_stages, run_stage
from medsynth_core.workspace.tree import Config


def phantoms(n: int) -> Config:
    return parse_config({"corpus": {"n_studies": n, "image_size": 32}}, "test")


def test_fresh_until_a_parameter_or_an_output_changes(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text((Path(__file__).parents[2] / "dvc.yaml").read_text())
    stage, config = read_stages(tmp_path)["corpus"], phantoms(20)
    assert not is_fresh(tmp_path, stage, config)
    report = run_stage("corpus", tmp_path, config, silent)
    assert is_fresh(tmp_path, stage, config)
    assert last_report(tmp_path, stage) == json.loads(json.dumps(report))
    assert not is_fresh(tmp_path, stage, phantoms(21))
    (tmp_path / "data" / "corpus" / "corpus.json").write_text("{}")
    assert not is_fresh(tmp_path, stage, config)


def test_a_folder_without_stages_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="medsynth init"):
        run_stage("corpus", tmp_path, phantoms(20), silent)
    assert not (tmp_path / "data").exists()
