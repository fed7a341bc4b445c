"""A stage that a command ran is up to date for the flow, until something it depends on changes."""

import json
from pathlib import Path

from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import is_fresh, last_report, run_stage
from medsynth_core.workspace.tree import Config


def phantoms(n: int) -> Config:
    return parse_config({"corpus": {"n_studies": n, "image_size": 32}}, "test")


def test_fresh_until_a_parameter_or_an_output_changes(tmp_path: Path) -> None:
    config = phantoms(20)
    assert not is_fresh("corpus", config, tmp_path)
    report = run_stage("corpus", config, tmp_path, silent)
    assert is_fresh("corpus", config, tmp_path)
    assert last_report("corpus", tmp_path) == json.loads(json.dumps(report))
    assert not is_fresh("corpus", phantoms(21), tmp_path)
    (tmp_path / "data" / "corpus" / "corpus.json").write_text("{}")
    assert not is_fresh("corpus", config, tmp_path)
