"""The flow on Ray and on Dask: two workers that have nothing but the store, one of which is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from medsynth_core.config import Paths
from medsynth_core.release import open_release
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.tree import Config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

N_SHARDS = 12
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DISABLE_MEMORY_MONITOR": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""One thread a process, since more may round a pixel otherwise."""


def workspace(root: Path, trained: tuple[Config, Paths]) -> Path:
    """Makes a workspace whose models are there, with shards of two images."""
    tiny = trained[0]
    changed = {
        "synthesis": tiny.synthesis.model_copy(update={"shard_images": 2}),
        "runner": tiny.runner.model_copy(update={"in_flight": 1}),
        "models": tiny.models.model_copy(update={"path": "trained"}),
    }
    init_workspace(root, tiny.model_copy(update=changed))
    shutil.copytree(trained[1].root / "models", root / "trained")
    return root


@contextmanager
def running(root: Path, *settings: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "flows.launch", "augment", "--workspace", str(root)]
    command += [word for setting in settings for word in ("--set", setting)]
    log = root.parent / f"{root.name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=root, env=ALONE, text=True, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
        assert process.wait(600) == 0, log.read_text()[-4000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The release of one process."""
    root = workspace(tmp_path_factory.mktemp("alone") / "alone", trained)
    with running(root):
        pass
    return open_release(root).dir_md5


@contextmanager
def ray_cluster(folder: Path) -> Iterator[str]:
    from ray.cluster_utils import Cluster

    old = {name: os.environ.get(name) for name in ALONE}
    os.environ.update(ALONE)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def dask_cluster(folder: Path) -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(folder)
    ) as cluster:
        yield cluster.scheduler_address


def workers(kind: str) -> list[psutil.Process]:
    """Returns the processes of a cluster that make shards."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if (kind == "ray" and line.startswith("ray::worker")) or (kind == "dask" and "spawn_main" in line):
            found.append(process)
    return found


@pytest.mark.parametrize(("kind", "cluster"), [("ray", ray_cluster), ("dask", dask_cluster)])
def test_a_worker_that_is_killed_costs_no_image(
    kind: str,
    cluster: Callable[[Path], AbstractContextManager[str]],
    trained: tuple[Config, Paths],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    root = workspace(tmp_path / kind, trained)
    with (
        cluster(tmp_path / "cluster") as address,
        running(root, f"runner.kind={kind}", f"runner.address={address}") as process,
    ):
        deadline = time.monotonic() + 300
        while not list((root / "store" / "runs").glob("*/attempts/*/*.json")):
            assert process.poll() is None, (tmp_path / f"{kind}.log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        victims = workers(kind)
        assert victims
        victims[0].kill()
    assert open_release(root).dir_md5 == undisturbed
    assert len(list((root / "store" / "runs").glob("*/shards/*.json"))) == N_SHARDS
