"""The whole flow on a tiny configuration: killed, resumed, compared, released, read, damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.release.verify import verify
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import dump_config
from medsynth_core.workspace.repository import dvc, git
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}
N_SHARDS = 12


def start(root: Path, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.launch", "augment", "--workspace", str(root)]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.Popen(
        command,
        cwd=root,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def records(root: Path) -> dict[str, tuple[int, bytes]]:
    """Returns (time of writing, bytes) of each completion record."""
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (root / "store" / "runs").glob("*/shards/*.json")}


@pytest.fixture(scope="module")
def config(trained: tuple[Config, Paths]) -> Config:
    tiny = trained[0]
    return tiny.model_copy(
        update={
            "synthesis": tiny.synthesis.model_copy(update={"shard_images": 2}),
            "runner": tiny.runner.model_copy(update={"in_flight": 1}),
        }
    )


def workspace(root: Path, config: Config, trained: tuple[Config, Paths]) -> Path:
    """Makes a workspace whose models are there."""
    init_workspace(root, config.model_copy(update={"models": config.models.model_copy(update={"path": "trained"})}))
    shutil.copytree(trained[1].root / "models", root / "trained")
    return root


@pytest.fixture(scope="module")
def whole(config: Config, trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace after a run that nothing disturbed, and what that said."""
    root = workspace(tmp_path_factory.mktemp("runs") / "whole", config, trained)
    return root, finish(start(root))


@pytest.mark.slow
def test_a_killed_run_releases_the_same_images(
    config: Config, trained: tuple[Config, Paths], whole: tuple[Path, str], tmp_path: Path
) -> None:
    killed = workspace(tmp_path / "killed", config, trained)
    process = start(killed)
    deadline = time.monotonic() + 300
    while not records(killed):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = records(killed)
    assert 0 < len(before) < N_SHARDS, "the kill must fall into synthesis for this test to say anything"
    finish(start(killed))
    after = records(killed)
    assert {name: after[name] for name in before} == before, "a finished shard was made again"
    assert len(after) == N_SHARDS
    releases = [open_release(root) for root in (whole[0], killed)]
    tables = [release.manifest(["image_id", "sha256", "shard", "offset"]) for release in releases]
    assert tables[0].equals(tables[1])
    assert releases[0].dir_md5 == releases[1].dir_md5


@pytest.mark.slow
def test_worker_processes_release_the_same_images(
    config: Config, trained: tuple[Config, Paths], whole: tuple[Path, str], tmp_path: Path
) -> None:
    root = workspace(tmp_path / "processes", config, trained)
    finish(start(root, "runner.kind=processes", "runner.processes=2"))
    datasets = (open_release(each).dataset() for each in (root, whole[0]))
    ours, theirs = ([dataset[place] for place in range(len(dataset))] for dataset in datasets)
    assert [item["image_id"] for item in ours] == [item["image_id"] for item in theirs]
    apart = torch.stack([(a["image"].short() - b["image"].short()).abs() for a, b in zip(ours, theirs, strict=True)])
    assert apart.max() <= 1, "a process has half the threads, which may round a pixel otherwise"
    assert apart.sum() <= 5, "in rare cases"


def test_the_last_lines_say_where_the_release_is(whole: tuple[Path, str]) -> None:
    lines = [line for line in whole[1].splitlines() if line.startswith(("release ", "look ", "load "))]
    assert len(lines) == 3
    assert "synthetic-cxr-v1" in lines[0]
    code = lines[2].removeprefix("load").strip()
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0, "the printed line must run as it is"


def test_git_and_dvc_know_the_release(whole: tuple[Path, str], tmp_path: Path) -> None:
    root = whole[0]
    assert git(root, "tag").split() == ["synthetic-cxr-v1"]
    assert "accepted" in git(root, "tag", "-n5") or "images of" in git(root, "tag", "-n5")
    assert git(root, "status", "--porcelain", "--untracked-files=no") == ""
    assert "up to date" in dvc(
        root, "status", "corpus", "vocabulary", "prompts", "deduplicate", "release", "dataset.dvc"
    )
    dvc(root.parent, "get", str(root), "dataset", "--rev", "synthetic-cxr-v1", "-o", str(tmp_path / "got"))
    assert len(open_release(tmp_path / "got").dataset()) == len(open_release(root).dataset())


def test_accounting_and_items(whole: tuple[Path, str]) -> None:
    release = open_release(whole[0], rev="synthetic-cxr-v1")
    counts = release.info["counts"]
    assert counts["requested"] == 24 == counts["accepted"] + sum(counts["rejected"].values())
    assert len(release.manifest()) == counts["accepted"]
    assert len(release.rejected()) == sum(counts["rejected"].values())
    item = release.dataset()[0]
    assert item["image"].shape == (1, 32, 32)
    assert item["prompt"]
    assert set(release.manifest()["release"].to_pylist()) == {release.name}


def test_verify_finds_a_flipped_bit_and_a_missing_object(whole: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "copy", symlinks=True)
    release = open_release(tmp_path / "copy")
    assert verify(release, silent).problems == ()
    # a shard whose images were all rejected has no tar
    name = min(name for name in release.files if name.endswith(".tar"))
    tar = tmp_path / "copy" / "store" / release.files[name]
    original = tar.read_bytes()
    tar.unlink()
    assert any(p.startswith(f"missing object: {name}") for p in verify(release, silent).problems)
    tar.write_bytes(original[:600] + bytes([original[600] ^ 1]) + original[601:])
    assert any(p.startswith(f"changed bytes: {name}") for p in verify(release, silent).problems)


def test_the_report_needs_no_network(whole: tuple[Path, str]) -> None:
    page = (whole[0] / "data" / "report" / "report.html").read_text()
    assert "synthetic" in page
    assert "http://" not in page
    assert "https://" not in page
    assert 'src="data:' in page
    assert (whole[0] / "data" / "report" / "contact_sheet.png").stat().st_size > 10_000
    shown = json.loads((whole[0] / "data" / "report" / "metrics.json").read_text())
    assert shown["oracle"]
    assert shown["release"] == open_release(whole[0]).name
    assert (whole[0] / "store" / "reports" / "synthetic-cxr-v1" / "report.html").read_text() == page
    assert "nearest training image" in page, "a phantom's may be shown"


def test_there_is_no_release_in_a_new_workspace(tmp_path: Path, config: Config) -> None:
    init_workspace(tmp_path / "w", config)
    assert not init_workspace(tmp_path / "w", config), "a second init leaves it as it is"
    assert (tmp_path / "w" / "params.yaml").read_text() == dump_config(config)
    with pytest.raises(InputError, match=r"no dataset\.dvc"):
        open_release(tmp_path / "w")
    with pytest.raises(InputError, match="at revision 'v9'"):
        open_release(tmp_path / "w", rev="v9")
