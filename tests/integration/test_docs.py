"""The site is built without a warning, and the code of the pages on reading releases runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.made_release import publish_made
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.repository import dvc
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2]
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|pre))"""
    r"""[^>]*\bhref=["']?(?:https?:)?//|@import\s|url\(["']?(?:https?:)?//"""
)
"""What a browser fetches from another host."""
PAGES = (
    "tutorials/train-with-a-release.md",
    "how-to/read-with-other-tools.md",
    "reference/releases.md",
    "how-to/export.md",
)
"""Pages whose code is run, one after the other."""
PAGE = "\n".join((REPOSITORY / "docs" / page).read_text("utf-8") for page in PAGES)


def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 50
    assert [str(page) for page in pages if LOADED.search(page.read_text("utf-8"))] == []
    assert "corpus.columns" in (site / "reference" / "params.html").read_text("utf-8")
    assert "medsynth withdraw" in (site / "reference" / "cli.html").read_text("utf-8")
    assert "keypatch_words" in (site / "reference" / "manifest.html").read_text("utf-8")


def test_the_lines_of_the_pages_run(
    new_bucket: Callable[[pytest.MonkeyPatch], StoreConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = new_bucket(monkeypatch)
    root, config = tmp_path / "team", Config().model_copy(update={"store": store})
    init_workspace(root, config)
    opened = open_store(store, root)
    publish_made(config, workspace_paths(root), opened, "a" * 32, (40, 30))
    record_release(root, opened)
    line = re.search(r"^dvc (get team dataset --rev [\w-]+)", PAGE, re.MULTILINE)
    assert line is not None
    dvc(tmp_path, *line[1].split())
    exports = re.findall(r"^medsynth (export [^#\n]+)", PAGE, re.MULTILINE)
    assert len(exports) == 2
    for export in exports:
        command = [sys.executable, "-m", "medsynth_core.cli.main", *export.split()]
        subprocess.run(command, cwd=tmp_path, check=True)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    body = "\n".join(blocks).replace("s3://bucket/team/data", store.url)
    script = "if __name__ == '__main__':\n" + "".join(
        f"    {text}" if text.strip() else text for text in body.splitlines(True)
    )
    (tmp_path / "page.py").write_text(script)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(store.endpoint_url))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
