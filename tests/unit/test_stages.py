"""A stage is a row: what a command ran is up to date for the flow, until something it depends on changes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from typer.testing import CliRunner

from medsynth_core.cli import main
from medsynth_core.config import Params, Paths
from medsynth_core.progress import Progress, silent
from medsynth_core.workspace import stages
from medsynth_core.workspace.params import configure, parse_config, write_config
from medsynth_core.workspace.pipeline import render_pipeline
from medsynth_core.workspace.stages import Stage, find_stage, freshness_key, is_fresh, last_report, run_stage
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


def key(name: str, root: Path, *overrides: str) -> str:
    config = configure(overrides)
    return freshness_key(find_stage(name), config, stages.workspace_paths(root, config))


def test_a_training_knows_its_data_from_other_data(tmp_path: Path) -> None:
    """A checkpoint of the alignment once went on with another vocabulary: its key named corpus and VQ-GAN alone."""
    keys = set()
    for mined in ("effusion", "pneumothorax"):
        path = tmp_path / "data" / "vocabulary" / "labels.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mined)
        keys.add(key("alignment", tmp_path))
    keys.add(key("alignment", tmp_path, "models.alignment.dim=64"))
    assert len(keys) == 3
    assert key("alignment", tmp_path, "models.alignment.dim=64", "device=cpu") in keys


@pytest.mark.parametrize(
    ("stage", "override", "counts"),
    [
        ("synthesis", "synthesis.batch_size=3", False),
        ("synthesis", "release.split=val", True),
        ("synthesis", "store.url=elsewhere", True),
        ("release", "synthesis.batch_size=3", False),
        ("release", "synthesis.shard_images=3", False),
        ("release", "synthesis.temperature=0.5", True),
        ("synthesis", "quality.margin=0.1", True),
        ("calibrate", "quality.margin=0.1", False),
        ("release", "quality.margin=0.1", False),
        ("deduplicate", "quality.enabled=[degenerate]", False),
        ("evaluation", "evaluation.batch_size=3", False),
    ],
)
def test_a_stage_is_stale_by_what_decides_its_output(tmp_path: Path, stage: str, override: str, counts: bool) -> None:
    assert (key(stage, tmp_path) != key(stage, tmp_path, override)) == counts


def test_given_models_stand_in_for_trained_ones_but_are_never_trained_over(tmp_path: Path) -> None:
    config = configure(["models.path=given"])
    paths = stages.workspace_paths(tmp_path, config)
    assert paths["llm"] == tmp_path / "given" / "llm"
    assert paths["corpus"] == tmp_path / "data" / "corpus"
    assert stages._paths("llm", config, tmp_path)["llm"] == tmp_path / "models" / "llm"


def test_dvc_yaml_is_what_the_rows_say() -> None:
    assert (Path(__file__).parents[2] / "dvc.yaml").read_text() == render_pipeline(), (
        "run: python -m medsynth_core.workspace.pipeline > dvc.yaml"
    )


@dataclass(frozen=True)
class ToyParams(Params):
    seed: int


@dataclass(frozen=True)
class ToyReport:
    seed: int


def toy(params: ToyParams, paths: Paths, progress: Progress) -> ToyReport:
    paths["toy"].mkdir(parents=True)
    (paths["toy"] / "seed").write_text(str(params.seed))
    return ToyReport(params.seed)


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage that is there since it is a row."""
    module = ModuleType("toy_stage")
    module.toy = toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_stage", module)
    row = Stage(
        "toy", 1, "toy_stage:toy", "write the seed", ToyParams, ("corpus",), "data/toy", calls=True, command="play"
    )
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, row))
    return row


def test_a_row_is_a_command(row: Stage, tmp_path: Path) -> None:
    write_config(tmp_path / "params.yaml", configure(["seed=7"]))
    app = typer.Typer()
    main.add_stages(app)
    done = CliRunner().invoke(app, ["play", "--workspace", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "toy.seed: 7" in done.output
    assert is_fresh("toy", configure(["seed=7"]), tmp_path)
    assert "write the seed" in CliRunner().invoke(app, ["--help"]).output


def test_a_row_is_an_entry_of_dvc_yaml(row: Stage) -> None:
    entry = yaml.safe_load(render_pipeline())["stages"]["toy"]
    assert entry == {
        "desc": "write the seed",
        "cmd": "medsynth play",
        "deps": ["data/corpus"],
        "params": ["seed"],
        "outs": [{"data/toy": {"cache": False}}],
    }


def test_a_row_is_a_task_that_tries_again_where_servers_are_asked(row: Stage) -> None:
    from tasks.stages import stage_task

    task = stage_task(row)
    assert (task.name, task.retries, task.description) == ("toy", 3, "Write the seed.")
    assert stage_task(find_stage("corpus")).retries == 0
    assert stage_task(find_stage("deduplicate")).retries == 3
