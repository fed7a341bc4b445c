"""What a user gets wrong: one line, a code, and nothing expensive before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medsynth_core.errors import MedsynthError
from medsynth_core.workspace.check import check
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad") / "w"
    init_workspace(root, Config())
    (root / "empty.csv").write_text("text,filename\n")
    (root / "columns.csv").write_text("report,filename\nClear.,\n")
    (root / "lost.csv").write_text("text,filename\nClear.,away.png\n")
    (root / "notes.txt").write_text("")
    return root


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.kind=openi", "corpus.path=/none"], "/none: corpus.path is not a folder"),
        (["corpus.kind=table", "corpus.path=/none.csv"], "/none.csv: not found"),
        (["corpus.kind=table", "corpus.path={root}/columns.csv"], "no column 'text'"),
        (["corpus.kind=table", "corpus.path={root}/empty.csv"], "no rows"),
        (["store.url={root}/notes.txt/below"], "can't be written"),
        (["models.path=nowhere"], "nowhere/vqgan: no model there"),
        (["corpus.kind=table", "corpus.path={root}/lost.csv"], "set corpus.images to the folder"),
        (["corpus.kind=table", "corpus.path={root}/lost.csv", "corpus.images={root}"], "none of 1 images is there"),
        (["prompts.provider=openai"], "OPENAI_API_KEY is not set"),
        (["store.url=s3://bucket/x", "store.endpoint_url=http://127.0.0.1:9"], "can't be reached"),
    ],
)
def test_the_check_names_it(
    workspace: Path, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    config = configure([override.format(root=workspace) for override in overrides])
    with pytest.raises(MedsynthError) as caught:
        check(config, workspace)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["run", "--workspace", "{root}", "--set", "synthesis.tempratur=1"],
            2,
            "did you mean 'synthesis.temperature'?",
        ),
        (["vocabulary", "--workspace", "{root}"], 3, "run `medsynth corpus` first"),
        (["verify", "{root}"], 3, "no dataset.dvc"),
        (["corpus", "--workspace", "{root}/nothing"], 2, "params.yaml: not found"),
        (["run", "--workspace", "{root}/nothing"], 3, "nothing: not a folder"),
    ],
)
def test_the_command_prints_one_line_and_fails(workspace: Path, arguments: list[str], code: int, message: str) -> None:
    command = [sys.executable, "-m", "medsynth_core.cli.main", *(word.format(root=workspace) for word in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from medsynth_core.cli.main import app; "
        "print([m for m in ('torch', 'prefect', 'pandas', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
