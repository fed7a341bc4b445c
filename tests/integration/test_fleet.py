"""A run that lives in the store is made by processes that have nothing but its URL and id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from medsynth_core.config import Paths
from medsynth_core.errors import CorruptObjectError, ForeignRunError, InputError
from medsynth_core.progress import silent
from medsynth_core.storage.completion import finished_shards
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.published import MODELS, read_published
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.status import status_of
from medsynth_core.workspace.garbage import find_garbage
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration


@pytest.fixture(params=["local", "s3"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> StoreConfig:
    return StoreConfig(url=str(tmp_path / "store")) if request.param == "local" else request.getfixturevalue("s3_store")


def planned(trained: tuple[Config, Paths], store: ObjectStore) -> str:
    params = SynthesisParams.of(trained[0])
    return stage.publish_round(params, trained[1], store).plan.run_id


def command(at: StoreConfig, run: str, home: Path, *more: str) -> list[str]:
    where = [] if at.endpoint_url is None else ["--endpoint-url", at.endpoint_url]
    return [sys.executable, "-m", "medsynth_core.cli.main", "work", at.url, run, "--cache", str(home), *where, *more]


def environment(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def blind(workspace: Path) -> list[str]:
    """Returns what begins a command that can't see a workspace's folder; nothing where only root could."""
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {workspace} && exec "$@"', "sh"]
    return hidden if subprocess.run([*hidden, "true"], check=False, capture_output=True).returncode == 0 else []


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_without_a_workspace_make_what_one_process_makes(
    n: int, trained: tuple[Config, Paths], at: StoreConfig, tmp_path: Path
) -> None:
    store, alone = open_store(at, tmp_path), open_store(StoreConfig(url="alone"), tmp_path)
    run = planned(trained, store)
    workers = []
    for number in range(n):
        home = tmp_path / f"home-{number}"
        around = environment(home)
        line = [*blind(trained[1].root), *command(at, run, home, "--part", f"{number}/{n}")]
        workers.append(subprocess.Popen(line, cwd=home, env=around))
    assert [worker.wait(300) for worker in workers] == [0] * n
    params = SynthesisParams.of(trained[0])
    stage.run(params, trained[1], alone, silent)
    made, expected = (finished_shards(each, run, 4) for each in (store, alone))
    assert made == expected
    found = status_of(store, run)
    assert (found.made, found.missing, found.set_aside, found.requested) == (4, 0, 0, 24)
    assert found.accepted + sum(found.rejected.values()) == 24
    report = stage.run(params, trained[1], store, silent)
    assert (report.made, report.resumed) == (0, 4)


def test_sigterm_lets_the_shard_in_hand_be_finished(
    trained: tuple[Config, Paths], at: StoreConfig, tmp_path: Path
) -> None:
    store = open_store(at, tmp_path)
    run, home = planned(trained, store), tmp_path / "home"
    worker = subprocess.Popen(command(at, run, home, "--in-flight", "1"), env=environment(home), cwd=tmp_path)
    while not any(store.list(f"runs/{run}/attempts/")):
        time.sleep(0.05)
        assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(60)
    found = status_of(store, run)
    assert code == (143 if found.missing else 0)
    assert found.in_work == 0
    assert found.made >= 1
    assert subprocess.run(command(at, run, home), env=environment(home), cwd=tmp_path, check=False).returncode == 0
    assert status_of(store, run).missing == 0


def test_a_run_of_another_version_is_not_touched(
    trained: tuple[Config, Paths], at: StoreConfig, tmp_path: Path
) -> None:
    store = open_store(at, tmp_path)
    run = planned(trained, store)
    key = f"runs/{run}/run.json"
    store.put(key, json.dumps({**json.loads(store.get(key)), "generator": "9.0"}).encode())
    with pytest.raises(ForeignRunError, match=r"run .* is of medsynth 9\.0"):
        read_published(store, run)
    done = subprocess.run(
        command(at, run, tmp_path / "home"),
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 15
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_there_is_no_such_run(at: StoreConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="medsynth plan"):
        read_published(open_store(at, tmp_path), "nothing")


def test_a_model_that_is_not_what_its_name_says(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    store = open_store(StoreConfig(url="store"), tmp_path)
    run = planned(trained, store)
    weights = max(store.list(MODELS), key=lambda stored: stored.size)
    store.put(weights.key, store.get(weights.key)[:-1] + b"x")
    with pytest.raises(CorruptObjectError, match="isn't what its name says"):
        stage.open_published(store, run, tmp_path / "cache", "cpu")


def test_models_are_sent_and_fetched_once(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    store = open_store(StoreConfig(url="store"), tmp_path)
    run = planned(trained, store)
    sent = {stored.key: stored.modified for stored in store.list(MODELS)}
    assert planned(trained, store) == run
    assert {stored.key: stored.modified for stored in store.list(MODELS)} == sent
    stage.open_published(store, run, tmp_path / "cache", "cpu")
    for key in sent:
        store.delete(key)
    worker, plan = stage.open_published(store, run, tmp_path / "cache", "cpu")
    assert worker.make(plan, 0).counts.requested == 6


def test_a_file_outside_its_folder_is_refused(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    store = open_store(StoreConfig(url="store"), tmp_path)
    run = planned(trained, store)
    key = f"runs/{run}/run.json"
    about = json.loads(store.get(key))
    about["files"][0]["relpath"] = "../../../outside"
    store.put(key, json.dumps(about).encode())
    with pytest.raises(CorruptObjectError, match="outside its folder"):
        stage.open_published(store, run, tmp_path / "cache", "cpu")
    assert not list(tmp_path.glob("outside"))


def test_models_are_kept_as_long_as_a_run_needs_them(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    root = tmp_path / "team"
    init_workspace(root, trained[0])
    store = open_store(trained[0].store, root)
    run = planned(trained, store)
    assert find_garbage(root, store, timedelta(0)).n_bytes == 0
    store.delete(f"runs/{run}/run.json")
    spare = find_garbage(root, store, timedelta(0)).objects
    assert {each.key for each in spare} == {each.key for each in store.list(MODELS)} != set()
    planned(trained, store)
    found = find_garbage(root, store, timedelta(0), runs=True)
    assert {each.key for each in found.objects} == {each.key for each in store.list(MODELS)}, "other runs' go with them"
