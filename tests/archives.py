"""Reading of archives' trees by the corpus stage, in a workspace beside them."""

from __future__ import annotations

from pathlib import Path

from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.stage import CorpusReport
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform


def read_archive(kind: str, folder: Path, **corpus: object) -> tuple[CorpusReport, Corpus]:
    """Returns what the stage says of an archive, and the corpus that it made."""
    settings = {"kind": kind, "path": str(folder), "image_size": 32, "views": "all", **corpus}
    workspace = folder.parent / "workspace"
    report = perform("corpus", parse_config({"corpus": settings}, "test"), workspace, silent)
    return report, Corpus.open(workspace / "data" / "corpus")


def skipped(folder: Path) -> str:
    """Returns the list of what wasn't read."""
    return (folder.parent / "workspace" / "data" / "corpus" / "skipped.csv").read_text()
