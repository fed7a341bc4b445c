"""A fleet on one machine, to try what docs/how-to/cluster.md says: `make fleet`.

An S3-protocol store in memory, a Prefect server, a Ray head and two Ray workers of one core each, and Prometheus where
it is installed; and a workspace that knows them. It stays until Ctrl-C, and nothing of the store is left then.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3

from benchmarks.server import free_port, serving_prefect, serving_s3
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure

BUCKET = "medsynth"
WORKERS = 2
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
"""Any will do: the store is of this machine and of this hour."""


def main(workspace: Path) -> None:
    """Starts everything, writes the workspace and waits."""
    os.environ.update(CREDENTIALS, RAY_USAGE_STATS_ENABLED="0")
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = str(root)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        for name in ("s3", "prefect"):
            (folder / name).mkdir()
        endpoint = stack.enter_context(serving_s3(folder / "s3"))
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        prefect = stack.enter_context(serving_prefect(folder / "prefect"))["PREFECT_API_URL"]
        os.environ["PREFECT_API_URL"] = prefect
        head, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        for options in (["--head", f"--port={head.split(':')[1]}", "--num-cpus=0", "--include-dashboard=false"],
                        *[[f"--address={head}", "--num-cpus=1"]] * WORKERS):  # fmt: skip
            stack.enter_context(_kept(["ray", "start", "--block", "--disable-usage-stats", *options], folder))
            time.sleep(5)
        said = "Prometheus isn't installed"
        if shutil.which("prometheus"):
            said = f"Prometheus http://{_prometheus(stack, folder, metrics)}"
        settings = [f"store.url=s3://{BUCKET}/demo", f"store.endpoint_url={endpoint}", f"runner.address={head}"]
        if not workspace.exists():
            init_workspace(workspace, configure(settings))
        else:
            done = [sys.executable, "-m", "medsynth_core.cli.main", "config", "set", "-w", str(workspace), *settings]
            subprocess.run(done, check=True)
        environment = {**CREDENTIALS, "PREFECT_API_URL": prefect, "MEDSYNTH_METRICS": metrics}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        (workspace / "environment").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"store {endpoint}, Prefect {prefect.removesuffix('/api')}, Ray {head} with {WORKERS} workers, {said}")
        print("now, in another shell:")
        print(f"  cd {workspace} && . ./environment && {root}/.venv/bin/medsynth run --set runner.kind=ray", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


@contextmanager
def _kept(command: list[str], folder: Path) -> Iterator[None]:
    """Runs a process as long as the block lasts."""
    beside = Path(sys.executable).parent / command[0]
    with (folder / f"{command[0]}.log").open("ab") as log:
        program = str(beside) if beside.exists() else command[0]
        process = subprocess.Popen([program, *command[1:]], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _prometheus(stack: ExitStack, folder: Path, metrics: str) -> str:
    """Starts Prometheus, which asks a run for its metrics, and returns where it listens."""
    address = f"127.0.0.1:{free_port()}"
    rules = Path(__file__).parents[1] / "infra" / "prometheus" / "alerts.yml"
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 5s}}\nrule_files: ['{rules}']\n"
        f"scrape_configs:\n- job_name: medsynth\n  static_configs: [{{targets: ['{metrics}']}}]\n",
        "utf-8",
    )
    data = f"--storage.tsdb.path={folder / 'prometheus'}"
    stack.enter_context(
        _kept(["prometheus", f"--config.file={config}", data, f"--web.listen-address={address}"], folder)
    )
    return address


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "fleet").resolve())
