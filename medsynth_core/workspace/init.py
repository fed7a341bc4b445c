"""Making of a workspace: the git and DVC repository in which a team's runs and releases are recorded."""

from __future__ import annotations

from pathlib import Path

from medsynth_core.errors import InputError
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.params import write_config
from medsynth_core.workspace.pipeline import render_pipeline
from medsynth_core.workspace.repository import commit, dvc, git
from medsynth_core.workspace.tree import Config

_GIT_IGNORED = ("/data/", "/models/", "/dataset", "/store/", "/.medsynth/", "__pycache__/")
_DVC_IGNORED = ("__pycache__/", "/store/", "/.medsynth/")


def init_workspace(root: Path, config: Config) -> bool:
    """Makes ``root`` a workspace with this configuration; returns False, touching nothing, when it is one.

    A local store is the DVC remote and the DVC cache at once, so that nothing is stored twice.

    Raises:
        InputError: the folder has other contents.
        StateError: git or DVC fails.
    """
    root.mkdir(parents=True, exist_ok=True)
    if (root / "params.yaml").is_file() and (root / ".dvc" / "config").is_file():
        return False
    if any(root.iterdir()) and not _is_unfinished(root):
        raise InputError(f"{root}: not empty and not a workspace; name a new folder")
    git(root, "init", "--quiet", "--initial-branch", "main")
    if not (root / ".dvc" / ".gitignore").is_file():
        dvc(root, "init", "--quiet", "--force")
    (root / "dvc.yaml").write_text(render_pipeline(), "utf-8")
    (root / ".gitignore").write_text("\n".join(_GIT_IGNORED) + "\n", "utf-8")
    (root / ".dvcignore").write_text("\n".join(_DVC_IGNORED) + "\n", "utf-8")
    configure_store(root, config)
    write_config(root / "params.yaml", config)
    commit(root, "New medsynth workspace", ["."])
    return True


def configure_store(root: Path, config: Config) -> None:
    """Points the DVC remote (and, for a local store, the DVC cache) to ``store.url``.

    Raises:
        ConfigError: the URL is none of a store.
    """
    store = open_store(config.store, root)
    lines = ["[core]", "    analytics = false", "    remote = store"]
    if store.is_dvc_cache:
        lines += ["[cache]", f"    dir = {store.dvc_remote['url']}", '    type = "reflink,hardlink,copy"']
    lines += ["['remote \"store\"']", *(f"    {name} = {value}" for name, value in store.dvc_remote.items())]
    text = "\n".join(lines) + "\n"
    path = root / ".dvc" / "config"
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def _is_unfinished(root: Path) -> bool:
    """Returns whether all there is may be from an init that was killed: params.yaml and the commit come last."""
    names = {path.name for path in root.iterdir()}
    if ".git" not in names or names - {".git", ".dvc", ".dvcignore", ".gitignore", "dvc.yaml"}:
        return False
    if "dvc.yaml" in names and (root / "dvc.yaml").read_text("utf-8") != render_pipeline():
        return False
    return not git(root, "rev-list", "--all", "--max-count=1").strip()
