"""Recording of runs and releases in the workspace's git and DVC repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from medsynth_core.errors import StateError
from medsynth_core.storage.atomic import write_bytes_atomically
from medsynth_core.storage.index import ReleaseEntry, RunRecord, claim, split_tag, versions, write_entry
from medsynth_core.storage.reports import METRICS, PAGE, put_report
from medsynth_core.storage.store import ObjectStore
from medsynth_core.workspace import stages
from medsynth_core.workspace.params import differences, dump_config, load_config
from medsynth_core.workspace.repository import annotate, commit, dvc, git
from medsynth_core.workspace.tree import Config

_RECORDED = ("dvc.lock", "dvc.yaml", "params.yaml", "dataset.dvc", "metrics", ".dvc/config")


def record_stages(root: Path, config: Config) -> None:
    """Writes dvc.lock as ``dvc repro`` would have, from the stages' outputs on disk, with the parameters of the run.

    Where ``models.path`` names models, of which DVC knows nothing, the stages that read or make models aren't recorded.

    Args:
        config: what the run used; params.yaml may say otherwise, by the run's own changes or by later ones.

    Raises:
        StateError: DVC fails.
    """
    trained = {stage.name for stage in stages.STAGES if stage.given}
    with_models = config.models.path is None
    known = [stage.name for stage in stages.STAGES if with_models or trained.isdisjoint({stage.name, *stage.deps})]
    dvc(root, "commit", "--force", *known)
    if changed := differences(load_config(root / "params.yaml"), config):
        _lock_parameters(root / "dvc.lock", changed, config)


def _lock_parameters(path: Path, changed: Iterable[str], config: Config) -> None:
    """Writes into dvc.lock what a run used of the changed parameters: DVC takes them from params.yaml alone."""
    lock = yaml.safe_load(path.read_text("utf-8"))
    values = config.model_dump(mode="json")
    for entry in lock["stages"].values():
        used = entry.get("params", {}).get("params.yaml", {})
        for place in used:
            if any(name == place or name.startswith(f"{place}.") for name in changed):
                used[place] = reduce(lambda node, key: node[key], place.split("."), values)
    write_bytes_atomically(path, yaml.safe_dump(lock, sort_keys=False, allow_unicode=True).encode())


def record_release(
    root: Path,
    store: ObjectStore,
    config: Config | None = None,
    about_run: RunRecord | None = None,
    publishing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> str:
    """Checks the dataset out (where the store is the DVC cache, so that it is linked), commits it, claims its version
    in the store, tags it, puts its page beside the version's record and returns the tag.

    A version that already is this dataset is returned unchanged but for its page, so that a cut-off attempt can be
    repeated, and a page that was made anew be recorded.

    Args:
        config: what the run used, which the commit holds as params.yaml; None: what the file says.
        about_run: where the release comes from, kept in the version's record.
        publishing: entered for what makes the release visible to others; it may refuse by raising.

    Raises:
        StateError: git or DVC fails, or no release was made.
    """
    folder = root / "data" / "release"
    if not (folder / "release.json").is_file():
        raise StateError(f"{folder / 'release.json'}: not found; run `medsynth release` first")
    about = json.loads((folder / "release.json").read_text("utf-8"))
    dataset = json.loads((folder / "dataset.json").read_text("utf-8"))
    if store.is_dvc_cache:
        dvc(root, "checkout", "--quiet", "--force", "dataset.dvc")
    used = {}
    if config is not None and differences(load_config(root / "params.yaml"), config):
        used = {"params.yaml": dump_config(config)}
    commit(root, f"Release {about['name']}", [name for name in _RECORDED if (root / name).exists()], used)

    def entry(tag: str) -> ReleaseEntry:
        return ReleaseEntry(
            tag=tag,
            **dataset,
            counts=about["counts"],
            spec_hash=about["spec_hash"],
            parent=about["parent"]["tag"] if about["parent"] else None,
            commit=git(root, "rev-parse", "HEAD").strip(),
            generator_version=about["generator_version"],
            run=about_run,
        )

    tags = _tags(root, about["name"])
    with publishing():
        if tags and _pointer_at(root, tags[-1]) == _pointer(root):
            tag = tags[-1]
            write_entry(store, entry(tag))
        else:
            tag = claim(store, about["name"], split_tag(tags[-1])[1] if tags else 0, entry).tag
            annotate(root, tag, _message(tag, about))
        _put_page(root / "data" / "report", store, tag, f"{about['name']}@{dataset['dir_md5'][:8]}")
    return tag


def newest_release(root: Path, name: str) -> str | None:
    """Returns the newest tag of a dataset in a workspace, or None."""
    tags = _tags(root, name)
    return tags[-1] if tags else None


def _put_page(folder: Path, store: ObjectStore, tag: str, release: str) -> None:
    """Writes the page to the store if there is one of this release."""
    if not (folder / METRICS).is_file():
        return
    metrics = (folder / METRICS).read_bytes()
    if json.loads(metrics)["release"] == release:
        put_report(store, tag, (folder / PAGE).read_bytes(), metrics)


def _tags(root: Path, name: str) -> list[str]:
    """Returns the release tags of a dataset, oldest first."""
    return [f"{name}-v{version}" for version in versions(git(root, "tag").split(), name)]


def _pointer(root: Path) -> Any:
    return yaml.safe_load((root / "dataset.dvc").read_text("utf-8"))["outs"][0]["md5"]


def _pointer_at(root: Path, tag: str) -> Any:
    return yaml.safe_load(git(root, "show", f"{tag}:dataset.dvc"))["outs"][0]["md5"]


def _message(tag: str, about: Mapping[str, Any]) -> str:
    counts = about["counts"]
    lines = [
        f"{tag}: {counts['accepted']} images of {counts['requested']} requested",
        "",
        *(f"rejected {reason}: {n}" for reason, n in counts["rejected"].items()),
        *(f"failed {reason}: {n}" for reason, n in counts["failed"].items()),
        *([f"added {about['parent']['added']} to {about['parent']['tag']}"] if about["parent"] else []),
        f"spec {about['spec_hash']}",
    ]
    return "\n".join(lines)
