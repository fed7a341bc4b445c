"""What made a release: host, code and packages."""

from __future__ import annotations

import hashlib
import socket
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import medsynth_core
from medsynth_core.errors import StateError
from medsynth_core.storage.index import RunRecord
from medsynth_core.workspace.repository import git


def run_record(flow_run: str | None, changes: dict[str, Any]) -> RunRecord:
    """Returns the record of a run on this machine.

    Args:
        flow_run: id of the run in Prefect, if it has one.
        changes: parameters of this run alone.
    """
    return RunRecord(
        flow_run=flow_run, host=socket.gethostname(), code=code_version(), packages=packages_digest(), changes=changes
    )


def packages_digest() -> str:
    """Returns the SHA-256 of the names and versions of all installed packages, 64 hex digits."""
    names = sorted({f"{each.name.lower().replace('_', '-')}=={each.version}" for each in distributions()})
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def code_version() -> str | None:
    """Returns the commit of the code that runs, with ``-dirty`` where files differ; None outside a git repository."""
    folder = Path(medsynth_core.__file__).parent.parent
    try:
        if Path(git(folder, "rev-parse", "--show-toplevel").strip()).resolve() != folder.resolve():
            return None
        commit = git(folder, "rev-parse", "HEAD").strip()
        return f"{commit}-dirty" if git(folder, "status", "--porcelain", "--untracked-files=no").strip() else commit
    except StateError:
        return None
