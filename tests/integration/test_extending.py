"""docs/how-to/extending is followed: its files are written into a copy of the package and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from medsynth_core.config import Paths
from medsynth_core.release import open_release
from medsynth_core.storage.content import content_key
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n# (\S+?\.py)(: [^\n]*)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    """Returns the blocks of the pages by the file that each names; a row has the words after the name, too."""
    pages = sorted((REPOSITORY / "docs" / "how-to" / "extending").glob("*.md"))
    return {f"{name}{what}": text for page in pages for name, what, text in BLOCK.findall(page.read_text("utf-8"))}


class Copy:
    """A copy of the package with files of the page added, and a workspace with trained models."""

    def __init__(self, root: Path, trained: tuple[Config, Paths]) -> None:
        self.root, self.workspace = root, root / "workspace"
        for name in ("medsynth_core", "flows", "tasks"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        config, paths = trained
        init_workspace(self.workspace, config)
        for name in ("data", "models"):
            shutil.copytree(paths.root / name, self.workspace / name)

    def add(self, name: str) -> None:
        """Writes one of the page's files."""
        text = f"# {name}\n{blocks()[name]}"
        assert not (self.root / name).exists(), f"{name} must be a new file"
        (self.root / name).write_text(text, "utf-8")

    def set(self, **sections: dict[str, Any]) -> None:
        """Changes params.yaml by hand; what a section doesn't name has its default."""
        path = self.workspace / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text("utf-8")) | sections), "utf-8")

    def shards(self) -> list[dict[str, Any]]:
        """Returns the records of the shards that the workspace lists."""
        listed = json.loads((self.workspace / "data" / "synthesis" / "shards.json").read_text("utf-8"))
        return [record for record in listed["shards"] if record["counts"]["accepted"]]

    def run(self, code: str) -> str:
        """Returns what code prints that imports the copy."""
        return self._output([sys.executable, "-P", "-c", code])

    def medsynth(self, *words: str) -> str:
        """Returns what a command of the copy prints, in the workspace."""
        return self._output([sys.executable, "-P", "-m", "medsynth_core.cli.main", *words])

    def stages(self, *names: str) -> None:
        """Runs stages' commands one after the other, in one process."""
        self.run(
            f"from medsynth_core.cli.main import app\nfor name in {names}:\n    app([name], standalone_mode=False)"
        )

    def _output(self, command: list[str]) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, cwd=self.workspace, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture
def copy(trained: tuple[Config, Paths], tmp_path: Path) -> Copy:
    return Copy(tmp_path, trained)


def test_a_filter_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/filters/brightness.py")
    path = copy.workspace / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for enabled, run in ((False, "off"), (True, "on")):
        params["quality"]["enabled"] = [*(["brightness"] if enabled else []), "duplicate", "agreement"]
        path.write_text(yaml.safe_dump(params))
        copy.stages(*(["calibrate"] if enabled else []), "synthesis", "deduplicate", "privacy", "fidelity", "release")
        shutil.copytree(copy.workspace / "data" / "release", copy.workspace / run)
    off, on = (json.loads((copy.workspace / run / "release.json").read_text()) for run in ("off", "on"))
    assert "brightness" not in off["quality"]
    assert (off["spec_hash"], off["runs"] == on["runs"]) == (on["spec_hash"], False), "the images are the same ones"
    assert on["quality"]["brightness"] == {"quantile": 0.005}
    assert on["bounds"]["brightness"] > 0
    defaults = copy.run(
        "from medsynth_core.workspace.params import configure, dump_config; print(dump_config(configure([])))"
    )
    assert yaml.safe_load(defaults)["quality"]["brightness"] == {"quantile": 0.005}
    assert "brightness" in yaml.safe_load(defaults)["quality"]["enabled"]
    release = open_release(copy.workspace)
    card = release.read("README.md").decode()
    assert "Images far darker or brighter than all but 0.5% of real held-out images were rejected." in card
    assert "score_brightness" in release.read("schema.json").decode()
    shown = copy.run(
        "from medsynth_core.release import open_release\n"
        "rows = open_release('.').manifest(['score_brightness'])\n"
        "print(all(value is not None for value in rows['score_brightness'].to_pylist()))"
    )
    assert shown.split() == ["True"]
    copy.stages("evaluate", "utility", "report")
    page = (copy.workspace / "data" / "report" / "report.html").read_text()
    assert "unusual brightness" in page, "a score of every image of the gallery"
    assert re.search(r"<td>brightness</td><td>quantile 0\.005</td>", page), "a line of the provenance"
    assert "brightness" in copy.medsynth("inspect", ".")
    copy.medsynth("export", ".", "exported")
    [table] = (copy.workspace / "exported").glob("*/metadata.jsonl")
    assert json.loads(table.read_text().splitlines()[0])["score_brightness"] >= 0


def test_a_stage_is_one_row(copy: Copy) -> None:
    copy.add("medsynth_core/corpus/census.py")
    row = blocks()["medsynth_core/workspace/stages.py: one more row of STAGES"]
    path = copy.root / "medsynth_core" / "workspace" / "stages.py"
    text = path.read_text()
    text = text.replace("STAGES: tuple[Stage, ...] = (\n", f"STAGES: tuple[Stage, ...] = (\n{row}", 1)
    path.write_text(
        text.replace(
            "from medsynth_core.corpus.settings",
            "from medsynth_core.corpus.census import CensusParams\nfrom medsynth_core.corpus.settings",
            1,
        )
    )
    assert "census.studies.train: " in copy.medsynth("census")
    assert sum(json.loads((copy.workspace / "data" / "census" / "census.json").read_text()).values()) == 325
    pipeline = yaml.safe_load(
        copy.run("from medsynth_core.workspace.pipeline import render_pipeline; print(render_pipeline())")
    )
    assert pipeline["stages"]["census"] == {
        "desc": "count the studies of each split",
        "cmd": "medsynth census",
        "deps": ["data/corpus"],
        "params": ["seed"],
        "outs": [{"data/census": {"cache": False}}],
    }
    task = "from tasks.stages import stage_task; from medsynth_core.workspace.stages import find_stage\n"
    assert copy.run(f"{task}print(stage_task(find_stage('census')).name)").split() == ["census"]


def test_a_reader_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/corpus/readers/text_folder.py")
    reports = copy.root / "reports"
    reports.mkdir()
    for number in range(30):
        (reports / f"s{number}.txt").write_text("FINDINGS: A small left effusion." if number else "")
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (40, 1))).save(reports / "s1.png")
    copy.set(corpus={"kind": "text-folder", "path": str(reports), "image_size": 32, "max_bad_fraction": 0.1})
    copy.medsynth("corpus")
    about = json.loads((copy.workspace / "data" / "corpus" / "corpus.json").read_text())
    assert (sum(about["studies"].values()), sum(about["views"].values()), about["skipped"]) == (29, 1, 1)


def test_a_provider_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/prompts/providers/short_notes.py")
    copy.set(prompts={"n": 6, "provider": "short-notes", "short_notes": {"opening": "One sees"}})
    copy.medsynth("prompts")
    texts = pq.read_table(copy.workspace / "data" / "prompts" / "prompts.parquet")["text"].to_pylist()
    assert texts
    assert all(text.startswith(("One sees", "The lungs are clear.")) for text in texts)


def test_an_extractor_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/evaluation/extractors/grey_histogram.py")
    copy.set(evaluation={"extractors": ["grey-histogram"]})
    for stage in ("synthesis", "deduplicate", "privacy", "fidelity", "release", "evaluate"):
        copy.medsynth(stage)
    figures = json.loads((copy.workspace / "metrics" / "evaluation.json").read_text())
    # which of both is larger is chance with so few images, and differs between machines
    assert all(0 <= figures["grey-histogram"][name] <= 1 for name in ("precision", "precision_real"))


def test_an_attacker_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/privacy/attackers/profiles.py")
    copy.set(privacy={"attackers": ["pixels", "profiles"], "min_images": 10})
    copy.stages("synthesis", "deduplicate", "privacy", "fidelity", "release")
    figures = json.loads((copy.workspace / "metrics" / "privacy.json").read_text())
    assert set(figures) >= {"pixels", "profiles"}
    assert "judge" not in figures
    assert 0 <= figures["profiles"]["membership_auc"] <= 1
    about = open_release(copy.workspace).info["privacy"]
    assert set(about["histograms"]) == {"pixels", "profiles"}
    limits = {row["metric"]: row["limit"] for row in about["figures"] if row["space"] == "profiles"}
    assert limits["membership_auc"] == 0.6


def test_a_store_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/storage/stores/shelf.py")
    copy.set(store={"url": "shelf://books"})
    copy.medsynth("synthesis")
    assert list((copy.workspace / "books" / "runs").glob("*/shards/*.json"))


def test_a_tokenizer_is_one_file(copy: Copy) -> None:
    copy.add("medsynth_core/models/tokenizers/blocks.py")
    shown = copy.run(
        "import torch; from pathlib import Path\n"
        "from medsynth_core.models.rendering import as_rendered\n"
        "from medsynth_core.models.tokenizers import load_image_tokenizer\n"
        "from medsynth_core.models.tokenizers.blocks import BlockMeans\n"
        "from medsynth_core.corpus.phantom import phantom_study\n"
        "BlockMeans(torch.linspace(-1, 1, 64), 4).save(Path('blocks'))\n"
        "image = phantom_study(0, 0, 64).views[0].load()\n"
        "rendered = as_rendered(load_image_tokenizer(Path('blocks')), image[None])[0]\n"
        "print(rendered.shape == image.shape, abs(rendered.astype(int) - image).mean() < 20)"
    )
    assert shown.split() == ["True", "True"]


def test_a_column_is_two_lines(copy: Copy) -> None:
    places = {
        "medsynth_core/manifest.py: one more of _COLUMNS": '    ("sampling", _SAMPLING',
        "medsynth_core/synthesis/worker.py: one more entry of a row": '            "sampling": ',
    }
    for name, before in places.items():
        path = copy.root / name.partition(":")[0]
        text = path.read_text("utf-8")
        assert text.count(before) == 1
        path.write_text(text.replace(before, blocks()[name] + before), "utf-8")
    copy.medsynth("synthesis")
    [part, *_] = (record["manifest"] for record in copy.shards())
    rows = pq.read_table(copy.workspace / "store" / content_key(part["md5"])).to_pylist()
    assert all(row["prompt_words"] == len(row["prompt"].split()) for row in rows)
