"""The git and DVC command-line tools, with their failures as one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medsynth_core.errors import StateError

ISOLATED = ("-P",)
"""Options of a Python whose working directory is a workspace: a module that lies there must not be run."""


def git(root: Path, *arguments: str) -> str:
    """Returns what ``git ARGUMENTS`` prints in ``root``.

    Raises:
        StateError: git is missing or fails; carries its last line.
    """
    return _call(["git", *arguments], root)


def dvc(root: Path, *arguments: str) -> str:
    """Returns what ``dvc ARGUMENTS`` prints in ``root``.

    Raises:
        StateError: DVC fails; carries its last line.
    """
    return _call([sys.executable, *ISOLATED, "-m", "dvc", *arguments], root)


def commit(root: Path, message: str, paths: list[str]) -> bool:
    """Commits the given paths; returns False when none of them changed."""
    git(root, "add", "--", *paths)
    if not git(root, "diff", "--cached", "--name-only", "--", *paths).strip():
        return False
    git(root, *_identity(root), "commit", "--quiet", "-m", message, "--", *paths)
    return True


def annotate(root: Path, tag: str, message: str) -> None:
    """Sets an annotated tag on the newest commit."""
    git(root, *_identity(root), "tag", "-a", tag, "-m", message)


def _identity(root: Path) -> list[str]:
    """Returns options for an author, when the user configured none."""
    known = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True, check=False)
    return [] if known.returncode == 0 else ["-c", "user.name=medsynth", "-c", "user.email=medsynth@localhost"]


def _call(command: list[str], root: Path) -> str:
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StateError(f"{command[0]} is not installed; install it and run again") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        name = " ".join(word for word in command if word not in {sys.executable, *ISOLATED, "-m"})
        raise StateError(f"{root}: `{name}` failed: {lines[-1] if lines else 'no output'}")
    return done.stdout
