"""A release that is taken back: refused wherever somebody would use it, still there to be looked at, gone with gc."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.made_release import publish_made
from medsynth_core.errors import InputError, WithdrawnError
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.release.verify import verify
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.parent import open_parent
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.storage.withdrawn import read_withdrawal, withdraw
from medsynth_core.workspace.check import check
from medsynth_core.workspace.garbage import collect_garbage, find_garbage
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import load_config
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
NOW = timedelta(seconds=-60)
"""Of an age: everything is older."""


@pytest.fixture
def team(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, ObjectStore]:
    """A workspace with two releases."""
    root = tmp_path / "team"
    config = Config().model_copy(update={"store": StoreConfig(url="store")})
    init_workspace(root, config)
    store = open_store(config.store, root)
    for spec in ("a", "b"):
        publish_made(config, workspace_paths(root), store, spec * 32, (9, 5))
        record_release(root, store)
    return root, store


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medsynth_core.cli.main", *words], capture_output=True, text=True, check=False
    )


def test_it_is_refused_by_whoever_would_use_it_and_shown_to_who_looks(team: tuple[Path, ObjectStore]) -> None:
    root, store = team
    done = command("withdraw", "synthetic-cxr-v2", "--reason", "a patient can be found in it", "-w", str(root))
    assert done.returncode == 0, done.stderr
    said = r"synthetic-cxr-v2 was withdrawn on 20\d\d-\d\d-\d\d: a patient can be found in it"
    for place, rev in (
        (root, "synthetic-cxr-v2"),
        (root, None),
        (root / "store", "synthetic-cxr-v2"),
        (root / "store", None),
    ):
        with pytest.raises(WithdrawnError, match=said):
            open_release(place, rev)
    with pytest.raises(WithdrawnError, match=said):
        open_parent(store, "synthetic-cxr-v2")
    parent = load_config(root / "params.yaml", ["release.parent=synthetic-cxr-v2"])
    with pytest.raises(WithdrawnError, match=r"name another release\.parent"):
        check(parent, root, ["synthesis"])
    exported = command("export", str(root), str(root.parent / "out"), "--rev", "synthetic-cxr-v2")
    assert (exported.returncode, exported.stderr.count("\n")) == (WithdrawnError.exit_code, 1)
    looked = open_release(root, "synthetic-cxr-v2", withdrawn=True)
    assert verify(looked, silent).problems == ()
    shown = command("inspect", str(root), "--rev", "synthetic-cxr-v2")
    assert "WITHDRAWN" in shown.stdout
    assert len(open_release(root, "synthetic-cxr-v1").manifest()) == 14, "the other one is as before"


def test_the_first_reason_stays_and_an_unknown_tag_is_named(team: tuple[Path, ObjectStore]) -> None:
    _, store = team
    entry = read_entry(store, "synthetic-cxr-v1")
    first = withdraw(store, entry, "first")
    assert withdraw(store, entry, "second") == first == read_withdrawal(store, entry.dir_md5)
    with pytest.raises(InputError, match="no release 'synthetic-cxr-v7'; it has synthetic-cxr-v1, synthetic-cxr-v2"):
        read_entry(store, "synthetic-cxr-v7")


def test_its_objects_stay_until_gc_and_no_other_goes(team: tuple[Path, ObjectStore]) -> None:
    root, store = team
    old, new = (open_release(root, f"synthetic-cxr-v{n}") for n in (1, 2))
    withdraw(store, read_entry(store, "synthetic-cxr-v1"), "made with the wrong corpus")
    assert all(store.size(key) is not None for key in old.files.values())
    collect_garbage(store, find_garbage(root, store, NOW))
    assert verify(new, silent).problems == ()
    gone = [path for path, key in old.files.items() if store.size(key) is None]
    assert {path for path in old.files if path.endswith(".tar")} <= set(gone)
