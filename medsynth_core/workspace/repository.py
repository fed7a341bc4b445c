"""The git and DVC command-line tools, with their failures as one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from medsynth_core.errors import DiskError, StateError
from medsynth_core.storage.atomic import no_room

ISOLATED = ("-P",)
"""Options of a Python whose working directory is a workspace: a module that lies there must not be run."""


def git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns what ``git ARGUMENTS`` prints in ``root``.

    Args:
        environment: variables besides those of this process.

    Raises:
        StateError: git is missing or fails; carries its last line.
    """
    return _call(["git", *arguments], root, environment)


def dvc(root: Path, *arguments: str) -> str:
    """Returns what ``dvc ARGUMENTS`` prints in ``root``.

    Raises:
        StateError: DVC fails; carries its last line.
    """
    return _call([sys.executable, *ISOLATED, "-m", "dvc", *arguments], root)


def commit(root: Path, message: str, paths: list[str], instead: Mapping[str, str] | None = None) -> bool:
    """Commits the given paths; returns False when none of them changed.

    Args:
        instead: texts that are committed in place of what files of the working tree hold, by path; these stay.
    """
    if instead:
        return _commit_instead(root, message, paths, instead)
    git(root, "add", "--", *paths)
    if not git(root, "diff", "--cached", "--name-only", "--", *paths).strip():
        return False
    git(root, *_identity(root), "commit", "--quiet", "-m", message, "--", *paths)
    return True


def _commit_instead(root: Path, message: str, paths: list[str], instead: Mapping[str, str]) -> bool:
    """Commits by an index of its own, so that neither the working tree nor what a user has staged is touched."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", environment=index)
        git(root, "add", "--", *(path for path in paths if path not in instead), environment=index)
        for path, text in instead.items():
            held = Path(folder) / "text"
            held.write_text(text, "utf-8")
            blob = git(root, "hash-object", "-w", str(held)).strip()
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
        tree = git(root, "write-tree", environment=index).strip()
    if tree == git(root, "rev-parse", "HEAD^{tree}").strip():
        return False
    made = git(root, *_identity(root), "commit-tree", tree, "-p", "HEAD", "-m", message).strip()
    git(root, "update-ref", "-m", f"commit: {message}", "HEAD", made)
    git(root, "reset", "--quiet", "--", *paths)
    return True


def annotate(root: Path, tag: str, message: str) -> None:
    """Sets an annotated tag on the newest commit."""
    git(root, *_identity(root), "tag", "-a", tag, "-m", message)


def _identity(root: Path) -> list[str]:
    """Returns options for an author, when the user configured none."""
    known = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True, check=False)
    return [] if known.returncode == 0 else ["-c", "user.name=medsynth", "-c", "user.email=medsynth@localhost"]


def _finished(command: list[str], root: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a program in a session of its own: what a terminal or a worker sends to the group of a run mustn't cut it
    off half-way. One that the run doesn't wait for any more is told to end, so that git takes its locks away."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=root, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _call(command: list[str], root: Path, environment: Mapping[str, str] | None = None) -> str:
    try:
        variables = {**os.environ, **(environment or {})}
        done = _finished(command, root, variables)
    except FileNotFoundError as error:
        raise StateError(f"{command[0]} is not installed; install it and run again") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        name = " ".join(word for word in command if word not in {sys.executable, *ISOLATED, "-m"})
        failed = StateError(f"{root}: `{name}` failed: {lines[-1] if lines else 'no output'}")
        if no_room(StateError(done.stderr + done.stdout)):
            raise DiskError(f"{failed}; make room")
        raise failed
    return done.stdout
