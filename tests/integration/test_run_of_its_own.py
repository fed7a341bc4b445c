"""What a run has otherwise than params.yaml is its own: in its release's commit and record, not in the working tree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.prepare import hand_over, prepare
from medsynth_core.config import Paths
from medsynth_core.errors import BusyError, ConfigError, InputError
from medsynth_core.progress import silent
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.lock import at_work
from medsynth_core.workspace.origin import run_record
from medsynth_core.workspace.params import load_config, write_config
from medsynth_core.workspace.record import record_release, record_stages
from medsynth_core.workspace.repository import dvc, git
from medsynth_core.workspace.stages import STAGES, perform
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration

HOLD = (
    "import sys, time; from pathlib import Path; from medsynth_core.workspace.lock import at_work\n"
    "with at_work(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def root(trained: tuple[Config, Paths], tmp_path: Path) -> Path:
    folder = tmp_path / "w"
    init_workspace(folder, trained[0])
    for name in ("data", "models", "metrics"):
        shutil.copytree(trained[1].root / name, folder / name)
    return folder


def make(root: Path, config: Config) -> None:
    for stage in STAGES[next(i for i, stage in enumerate(STAGES) if stage.name == "synthesis") :]:
        perform(stage.name, config, root, silent)


def test_changes_are_in_the_release_and_not_in_params_yaml(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    run = prepare(root, ["synthesis.temperature=0.9", "release.publisher=Night films"])
    assert run.changes == {"synthesis.temperature": 0.9, "release.publisher": "Night films"}
    make(root, run.config)
    record_stages(root, run.config)
    store = open_store(run.config.store, root)
    tag = record_release(root, store, run.config, run_record("a-flow-run", run.changes))
    assert (root / "params.yaml").read_text() == text
    made_by = yaml.safe_load(git(root, "show", f"{tag}:params.yaml"))
    assert made_by["synthesis"]["temperature"] == 0.9
    locked = yaml.safe_load(git(root, "show", f"{tag}:dvc.lock"))["stages"]["synthesis"]["params"]["params.yaml"]
    assert locked["synthesis.temperature"] == 0.9
    record = read_entry(store, tag).run
    assert record is not None
    assert (record.flow_run, record.changes) == ("a-flow-run", run.changes)
    assert git(root, "status", "--porcelain").strip() == "M params.yaml", "the working tree's differs from the commit's"
    assert "params.yaml" in dvc(root, "status"), "and DVC says what is otherwise"
    git(root, "checkout", "--", "params.yaml")
    assert json.loads(dvc(root, "status", "--json")) == {}, "what the tag holds is what was made"


def test_what_a_user_has_staged_stays_staged(root: Path) -> None:
    (root / "notes.txt").write_text("mine\n")
    git(root, "add", "notes.txt")
    run = prepare(root, ["synthesis.temperature=0.9"])
    make(root, run.config)
    record_stages(root, run.config)
    tag = record_release(root, open_store(run.config.store, root), run.config)
    assert "notes.txt" not in git(root, "ls-tree", "-r", "--name-only", tag)
    assert git(root, "diff", "--cached", "--name-only").split() == ["notes.txt"]


def test_an_edit_during_a_run_changes_nothing_of_it(root: Path) -> None:
    run = prepare(root)
    hand_over(run, (), None, False)
    write_config(root / "params.yaml", load_config(root / "params.yaml", ["synthesis.temperature=0.5"]))
    assert prepare(root) is run, "what was prepared is what runs"
    make(root, run.config)
    record_stages(root, run.config)
    tag = record_release(root, open_store(run.config.store, root), run.config)
    kept = run.config.synthesis.temperature
    assert yaml.safe_load(git(root, "show", f"{tag}:params.yaml"))["synthesis"]["temperature"] == kept
    locked = yaml.safe_load((root / "dvc.lock").read_text())["stages"]["synthesis"]["params"]["params.yaml"]
    assert locked["synthesis.temperature"] == kept
    assert load_config(root / "params.yaml").synthesis.temperature == 0.5, "the edit is for the next run"


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(root: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    command = [sys.executable, "-m", "medsynth_core.cli.main"]
    for words in (["run"], ["train"], ["synthesis"], ["record"], ["config", "set", "seed=1"]):
        done = subprocess.run([*command, *words, "-w", str(root)], capture_output=True, text=True, check=False)
        assert done.returncode == BusyError.exit_code, done.stderr
        assert done.stderr.startswith(f"error: {root}: process {other.pid} on {os.uname().nodename}, since 20")
        assert done.stderr.count("\n") == 1
    other.send_signal(signal.SIGKILL)
    other.wait()
    with at_work(root), at_work(root):
        pass


def test_params_that_were_cut_off_are_refused(root: Path) -> None:
    whole = (root / "params.yaml").read_bytes()
    for length in (len(whole) * share // 8 for share in range(1, 8)):
        (root / "params.yaml").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"params\.yaml"):
            load_config(root / "params.yaml")
    (root / "params.yaml").write_text("seed: 3\n")
    assert load_config(root / "params.yaml").seed == 3, "what somebody wrote by hand may be short"


def test_config_set_keeps_and_show_prints(root: Path) -> None:
    command = [sys.executable, "-m", "medsynth_core.cli.main", "config"]

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words, "-w", str(root)], capture_output=True, text=True, check=False)

    assert call("set", "prompts.n=7", "seed=5").stdout == "seed: 5\nprompts.n: 7\n"
    assert call("show", "prompts.n", "seed").stdout == "prompts.n: 7\nseed: 5\n"
    before = (root / "params.yaml").read_bytes()
    refused = call("set", "prompts.n=-1")
    assert (refused.returncode, (root / "params.yaml").read_bytes()) == (2, before)
    assert "did you mean 'prompts.n'" in call("show", "prompt.n").stderr


def test_a_machine_without_the_workspace_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no such folder on {os.uname().nodename}"):
        prepare(tmp_path / "elsewhere")
