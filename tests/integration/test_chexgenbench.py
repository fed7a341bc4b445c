"""``medsynth benchmark chexgenbench`` on the tiny models: a release, images made of prompts, files alone."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medsynth_core.cli.main import app
from medsynth_core.config import Paths
from medsynth_core.errors import MedsynthError
from medsynth_core.evaluation.chexgenbench.making import as_prompt
from medsynth_core.evaluation.chexgenbench.protocol import PATHOLOGIES, pathologies_of
from medsynth_core.progress import silent
from medsynth_core.storage.store import open_store
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import perform
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
FEW = 12


@pytest.fixture(scope="module")
def workspace(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the tiny models and a release of theirs."""
    root = tmp_path_factory.mktemp("workspace")
    config = trained[0]
    init_workspace(root, config)
    (root / "data").mkdir()
    for name in ("data/corpus", "data/vocabulary", "data/prompts", "models"):
        (root / name).symlink_to(trained[1].root / name)
    store = open_store(config.store, root)
    for stage in ("synthesis", "deduplicate", "privacy", "fidelity", "release"):
        perform(stage, config, root, silent, store)
    return root


@pytest.fixture(scope="module")
def board(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with annotations as the benchmark has them, of phantoms."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "films").mkdir()
    for split, name in (("test", "TEST"), ("train", "TRAIN")):
        pairs, rows = read_pairs(trained[1], split), []
        for place in range(FEW):
            film = f"films/{split}{place}.jpg"
            Image.fromarray(pairs.corpus.images(pairs.rows[place : place + 1])[0]).resize((50, 40)).save(folder / film)
            shown = pathologies_of(pairs.conditions[place].findings)
            labels = {pathology: int(pathology in shown) for pathology in PATHOLOGIES}
            text = (
                f"{pairs.texts[place]} Film {place}."  # phantoms' reports repeat, prompts are compared by their words
            )
            rows.append(
                {"id": f"{split}{place}", "annotated_prompt": text, "path": film, "chexpert_labels": str(labels)}
            )
        with (folder / f"LLAVARAD_ANNOTATIONS_{name}.csv").open("w", newline="") as sink:
            writer = csv.DictWriter(sink, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def medsynth(workspace: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process, which has its networks' packages loaded already."""
    command = ["benchmark", "chexgenbench", "--workspace", str(workspace), *map(str, words)]
    done = CliRunner().invoke(app, command)
    if done.exception is None or isinstance(done.exception, SystemExit):
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)
    if not isinstance(done.exception, MedsynthError):
        raise done.exception
    said = f"{done.stderr}error: {done.exception}\n"  # as main() writes it
    return subprocess.CompletedProcess(command, done.exception.exit_code, done.stdout, said)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def figures(found: dict[str, Any], label: str | None = None) -> dict[str, dict[str, Any]]:
    return {f"{row['role']} {row['metric']}": row for row in found["figures"] if row["label"] == label}


def test_a_release_is_measured_with_stand_ins_and_says_so(workspace: Path) -> None:
    refused = medsynth(workspace)
    assert refused.returncode == 3
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: weights of the protocol are missing: ")
    assert not (workspace / "data" / "chexgenbench").exists()
    done = medsynth(workspace, "--stand-ins", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("missing, with stand-ins in their place: ")
    found = json.loads(done.stdout)
    out = workspace / "data" / "chexgenbench"
    assert json.loads((out / "benchmark.json").read_text()) == found
    assert found["networks"]["rad-dino"] == {"entry": "judge", "protocol": False, "sha256": {}}
    told = figures(found)
    for figure in ("rad-dino fid", "rad-dino coverage", "inception kid", "biovil-t alignment", "reid max_reid_scores"):
        assert told[figure]["value"] is not None, figure
    assert told["rad-dino fid"]["value"] > told["rad-dino fid"]["control"], "untrained models draw noise"
    for part in ("fidelity", "alignment", "privacy"):
        assert "the prompts are the release's own" in found["not_comparable"][part]
    assert "alignment in place of BioViL-T" in found["not_comparable"]["alignment"]
    (row,) = read(out / "image_generation_metrics.csv")
    assert float(row["FID (judge for RAD-DINO)"]) == round(told["rad-dino fid"]["value"], 3)
    assert "not comparable" in row["Extra Info"]
    shown = {row["Pathology"] for row in read(out / "conditional_img_text_alignment.csv")}
    assert shown
    assert shown <= set(PATHOLOGIES)
    (privacy,) = out.glob("privacy_metrics_*.csv")
    assert len(read(privacy)) == told["reid max_reid_scores"]["n"]


def test_images_are_made_of_prompts_and_a_stopped_making_goes_on(workspace: Path, board: Path, tmp_path: Path) -> None:
    tables = [board / f"LLAVARAD_ANNOTATIONS_{name}.csv" for name in ("TEST", "TRAIN")]
    words = ["--stand-ins", "--prompts", tables[0], "--make", tmp_path / "made", "--train", tables[1]]
    words += ["--privacy-prompts", "2", "--json"]
    done = medsynth(workspace, *words, "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["n"]["synthetic"], found["n"]["privacy"], found["paired_by"]) == (FEW, 20, "prompt")
    assert found["not_comparable"]["fidelity"] == ["judge in place of RAD-DINO", "texture in place of Inception"]
    listed = read(tmp_path / "made" / "prompt_INFO.csv")
    assert [row["img_savename"] for row in listed] == [f"SyntheticImg_test{place}.png" for place in range(FEW)]
    assert len(list((tmp_path / "made" / "privacy").glob("train*_gen_?.png"))) == 20
    assert [len(read(tmp_path / "one" / f"privacy_metrics_{found['name'].replace(' ', '-')}.csv"))] == [2]
    pixels = {path.name: path.read_bytes() for path in (tmp_path / "made").glob("*.png")}
    assert len(set(pixels.values())) == FEW, "each prompt has an image of its own"
    gone = tmp_path / "made" / "SyntheticImg_test3.png"
    gone.unlink()
    again = medsynth(workspace, *words, "--out", tmp_path / "two")
    assert again.returncode == 0, again.stderr
    before, after = (np.asarray(Image.open(source)) for source in (_file(tmp_path, pixels[gone.name]), gone))
    assert abs(before.astype(int) - after.astype(int)).max() <= 1, "alone or beside others, it is the same image"
    other = medsynth(workspace, *words, "--set", "synthesis.temperature=0.5", "--out", tmp_path / "three")
    assert other.returncode == 3
    assert "has images of other models or sampling settings" in other.stderr


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "kept.png"
    path.write_bytes(data)
    return path


def test_files_are_measured_without_a_workspace(board: Path, tmp_path: Path) -> None:
    """The films themselves stand for synthetic images: all figures are those of equal sets."""
    rows = read(board / "LLAVARAD_ANNOTATIONS_TEST.csv")
    with (tmp_path / "prompt_INFO.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["prompt", "img_savename"])
        writer.writerows((row["annotated_prompt"], row["path"]) for row in rows)
    words: Sequence[str | Path] = [
        "--prompts",
        board / "LLAVARAD_ANNOTATIONS_TEST.csv",
        "--images",
        tmp_path / "prompt_INFO.csv",
    ]
    words = [*words, "--image-dir", board, "--rad-dino", "texture", "--inception", "none", "--biovil-t", "none"]
    done = medsynth(tmp_path, *words, "--reid", "none", "--json")
    assert done.returncode == 0, done.stderr
    told = figures(json.loads(done.stdout))
    assert told["rad-dino fid"]["value"] == pytest.approx(0, abs=1e-3)
    assert told["rad-dino kid"]["value"] <= 0, "unbiased, of equal sets it is below 0"
    assert [told[f"rad-dino {metric}"]["value"] for metric in ("precision", "recall", "coverage")] == [1, 1, 1]
    (row,) = read(tmp_path / "chexgenbench" / "image_generation_metrics.csv")
    assert (row["FID"], row["Caption Type"]) == ("", "annotated_prompt")
    few = medsynth(tmp_path, *words, "--reid", "none", "--max-prompts", "8", "--json")
    assert json.loads(few.stdout)["not_comparable"]["fidelity"][0] == f"8 of {FEW} prompts"


def test_bad_input_is_one_line_before_any_work(workspace: Path, board: Path, tmp_path: Path) -> None:
    table = board / "LLAVARAD_ANNOTATIONS_TEST.csv"
    (tmp_path / "prompt_INFO.csv").write_text("prompt,img_savename\n")
    for words, code, said in (
        (["--prompts", table, "--images", tmp_path], 3, "the table has no rows"),
        (["--prompts", tmp_path / "away.csv", "--make", tmp_path / "m"], 3, "away.csv: no such file"),
        (["--prompts", table, "--make", tmp_path / "m", "--real-dir", tmp_path], 3, "row 2 (--real-dir names"),
        (["--rad-dino", "jugde"], 2, "did you mean 'judge'"),
        (["--make", tmp_path / "m"], 2, "need --prompts"),
        (
            ["--rad-dino", "none", "--inception", "none", "--biovil-t", "none", "--reid", "none"],
            3,
            "nothing to measure",
        ),
    ):
        done = medsynth(workspace, "--stand-ins", *words)
        assert done.returncode == code, done.stderr
        assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "m").exists(), "nothing is made before all is known to be there"


def test_a_prompt_is_asked_for_as_the_miner_reads_it() -> None:
    asked = as_prompt("Moderate left pleural effusion. No pneumothorax. ___ is unchanged.")
    assert asked.condition.query.startswith("moderate left pleural effusion")
    assert asked.view == "frontal"
    assert "___" not in asked.text
    assert asked.prompt_id != as_prompt("No pneumothorax.").prompt_id
    assert as_prompt("The lungs are clear.").condition.query == "normal chest"
