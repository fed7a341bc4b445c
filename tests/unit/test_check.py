"""What a run can't use is one line that names the setting, before any work."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from transformers import BertConfig, BertModel

from medsynth_core.errors import MedsynthError
from medsynth_core.workspace import check as checks
from medsynth_core.workspace.check import check
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.pipeline import render_pipeline

Usage = namedtuple("Usage", ["total", "used", "free"])


def problem(root: Path, stage: str | None, *overrides: str) -> str:
    """Returns the line that a check ends with, or nothing."""
    found = ""
    try:
        check(configure(overrides), root, None if stage is None else [stage])
    except MedsynthError as error:
        found = str(error)
    assert "\n" not in found
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8)
    BertModel(tiny).save_pretrained(folder)
    return folder


def test_the_defaults_can_start(root: Path) -> None:
    assert problem(root, None) == ""


def test_a_flow_needs_a_workspace(tmp_path: Path) -> None:
    assert "medsynth init" in problem(tmp_path, None)


@pytest.mark.parametrize("kind", ["ray", "dask"])
def test_the_runners_package_is_needed(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    found = problem(root, None, f"runner.kind={kind}")
    assert found.startswith(f"runner.kind {kind} needs the package prefect-{kind}")
    assert problem(root, "synthesis", f"runner.kind={kind}") == "", "a command makes shards by itself"


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("llm", "models.llm.base"),
        ("alignment", "models.alignment.text_model"),
        ("vqgan", "models.vqgan.clinical_model"),
        ("vqgan", "models.vqgan.perceptual_model"),
        ("evaluation", "evaluation.extractors"),
    ],
)
def test_a_pretrained_model_is_there(root: Path, encoder: Path, stage: str, setting: str) -> None:
    def about(name: str | Path) -> list[str]:
        value = f"['transformers:{name}']" if setting == "evaluation.extractors" else str(name)
        return [f"{setting}={value}", *(["models.vqgan.perceptual_weight=1"] if "perceptual" in setting else [])]

    for name in (None, stage):
        assert problem(root, name, *about(root / "none")).startswith(setting)
        assert "no such folder" in problem(root, name, *about(root / "none"))
    assert problem(root, "vocabulary", *about(root / "none")) == "", "another stage doesn't need it"
    broken = root / "broken"
    shutil.copytree(encoder, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    (broken / "preprocessor_config.json").write_text("{}")
    assert f"{setting} '{broken}': the folder has no *.safetensors" in problem(root, stage, *about(broken))
    (broken / "pytorch_model.bin").rename(broken / "model.safetensors")
    assert problem(root, stage, *about(broken)) == ""
    if stage in ("vqgan", "evaluation"):
        (broken / "preprocessor_config.json").unlink()
        assert "no preprocessor_config.json" in problem(root, stage, *about(broken))


def test_a_name_that_the_hub_cannot_resolve(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"We couldn't connect to 'https://huggingface.co' to load {name}.\nCheck your connection.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    found = problem(root, "llm", "models.llm.base=team/model")
    assert found.startswith("models.llm.base 'team/model' can't be loaded (We couldn't connect")


def test_given_models_take_the_place_of_what_would_be_trained(root: Path) -> None:
    assert problem(root, None, "models.path=given", "models.llm.base=/none").endswith(
        "set models.path to a folder that has one"
    )
    assert "judge_fraction" in problem(root, None, "corpus.judge_fraction=0")
    assert "judge_fraction" in problem(root, "judge", "corpus.judge_fraction=0")
    assert problem(root, "corpus", "corpus.judge_fraction=0") == ""


def test_room_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 10**7, 10**7))
    found = problem(root, None)
    assert found.startswith(
        f"{root}: 0.01 GB are free, but at the very least 0.03 GB are needed for the corpus and the store"
    )
    assert problem(root, "corpus").startswith(
        f"{root}: 0.01 GB are free, but at the very least 0.03 GB are needed for the corpus;"
    )
    assert problem(root, "vocabulary") == ""
    (root / "data" / "corpus").mkdir(parents=True)
    (root / "store" / "runs").mkdir(parents=True)
    assert problem(root, None) == "", "what is there needs no room again"


def test_a_local_chat_model_is_looked_for(root: Path) -> None:
    local = "prompts.provider=transformers"
    assert "set prompts.transformers.model" in problem(root, "prompts", local)
    assert "no such folder" in problem(root, "prompts", local, f"prompts.transformers.model={root / 'none'}")


def test_a_stage_is_checked_for_what_it_reads_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert problem(root, "prompts", "prompts.provider=openai").startswith("prompts.provider is openai")
    assert problem(root, "corpus", "prompts.provider=openai") == ""
    assert "not a folder" in problem(root, "corpus", "corpus.kind=openi", "corpus.path=/none")
    assert problem(root, "vocabulary", "corpus.kind=openi", "corpus.path=/none") == ""
    (root / "file").write_text("")
    assert "can't be written" in problem(root, "deduplicate", f"store.url={root}/file/below")
    assert problem(root, "prompts", f"store.url={root}/file/below") == ""


def test_dvc_yaml_of_another_version(root: Path) -> None:
    path = root / "dvc.yaml"
    pipeline = yaml.safe_load(render_pipeline())
    path.write_text(yaml.safe_dump(pipeline | {"stages": pipeline["stages"] | {"mine": {"cmd": "true"}}}))
    assert problem(root, None) == "", "a stage of the user's own"
    pipeline["stages"]["vocabulary"] |= {"always_changed": True, "desc": "mine"}
    path.write_text(yaml.safe_dump(pipeline))
    assert problem(root, None) == "", "what is added to a stage"
    pipeline["stages"]["vocabulary"]["deps"] = []
    path.write_text(yaml.safe_dump(pipeline))
    for stage in (None, "vocabulary"):
        assert "dvc.yaml: stage 'vocabulary' isn't as this version of medsynth has it; write it" in problem(root, stage)
    assert problem(root, "corpus") == "", "another stage's affair"
    del pipeline["stages"]["vocabulary"]
    path.write_text(yaml.safe_dump(pipeline))
    assert "stage 'vocabulary'" in problem(root, None)
    assert problem(root, "vocabulary") == "", "a stage that DVC doesn't know can't differ from what it knows"
    path.write_text("[")
    assert "dvc.yaml: no stages can be read" in problem(root, "vocabulary")
