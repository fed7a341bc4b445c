"""What infra/ has for containers, Kubernetes and Slurm, and the runners that use it, against stand-ins of both."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.utilities.templating import apply_values
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

import tasks.cluster_jobs
from medsynth_core.errors import ConfigError, IncompleteRunError, InputError, TransientError
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.synthesis.settings import RunnerConfig
from tasks.cluster_jobs import kubernetes, slurm
from tasks.fleet import Order

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "infra" / "kubernetes"
WORK = KUBERNETES / "base" / "work.yaml"
BATCH_SCRIPT = REPOSITORY / "infra" / "slurm" / "work.sbatch"
ORDER = Order(
    StoreConfig(url="s3://bucket/data", endpoint_url="http://store:9000", region="eu-central-1"),
    "run",
    4,
    "cuda",
    900.0,
)
TOLD = ["--device", "cuda", "--lost-after", "900", "--endpoint-url", "http://store:9000", "--region", "eu-central-1"]
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which builds the overlays, isn't here"
)


def built(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def flow_run_job() -> dict[str, Any]:
    """Returns the Job that Prefect's worker makes of a flow run by the template."""
    template = json.loads((KUBERNETES / "prefect" / "flow-run.json").read_text("utf-8"))
    values = {name: each.get("default") for name, each in template["variables"]["properties"].items()}
    given = {name: value for name, value in values.items() if value is not None}
    configuration = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], given))
    flow, run = uuid4(), FlowRun(flow_id=uuid4(), name="nightly")
    configuration.prepare_for_flow_run(run, DeploymentResponse(id=uuid4(), name="workspace", flow_id=flow))
    pod = configuration.job_manifest["spec"]["template"]["spec"]
    for unknown in ("completions", "parallelism"):  # Prefect demands them here, where the API ignores them
        del pod[unknown]
    return configuration.job_manifest


def check(obj: dict[str, Any]) -> None:
    """Holds an object against the API's schemas, a pod against what runs in a restricted namespace."""
    kubernetes_validate.validate(obj, kubernetes_validate.latest_version(), strict=True)
    if "template" not in obj.get("spec", {}):
        return
    pod = obj["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        secure = container["securityContext"]
        assert secure["readOnlyRootFilesystem"] is True
        assert secure["allowPrivilegeEscalation"] is False
        assert secure["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


def check_rules(job: dict[str, Any]) -> None:
    """Holds a Job against what the API server refuses and the schemas don't know."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"  # else neither a failure policy nor a limit for each index
    assert spec["backoffLimitPerIndex"] >= 0
    assert spec["maxFailedIndexes"] <= spec["completions"]
    names = [container["name"] for container in pod["containers"]]
    assert 0 < len(spec["podFailurePolicy"]["rules"]) <= 20
    for rule in spec["podFailurePolicy"]["rules"]:
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if codes := rule.get("onExitCodes"):
            assert codes["containerName"] in names
            assert codes["values"] == sorted(set(codes["values"]))
            assert 0 not in codes["values"]


@needs_kubectl
def test_what_stands_in_the_cluster_is_valid() -> None:
    objects = built("prefect")
    for each in objects:
        check(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "medsynth"
    assert "Job" not in {each["kind"] for each in objects}, "applying it would begin workers"
    roles = {each["metadata"]["name"]: each["rules"] for each in objects if each["kind"] == "Role"}
    assert roles["medsynth-flow"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "delete"]}
    ]
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert accounts == {"medsynth-work", "medsynth-flow", "medsynth-prefect"}


@needs_kubectl
def test_prefect_makes_a_valid_job_of_a_flow_run() -> None:
    job = flow_run_job()
    check(job)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert [*container["command"], *container["args"]] == ["env", "prefect", "flow-run", "execute"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert told["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "crash"
    there = {(each["kind"], each["metadata"]["name"]) for each in built("prefect")}
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    assert ("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]) in there
    assert ("PersistentVolumeClaim", pod["volumes"][0]["persistentVolumeClaim"]["claimName"]) in there


def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    within = {each["key"]: each["values"] for each in selector.get("matchExpressions", [])}
    equal = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    return all(labels.get(key) in values for key, values in {**within, **equal}.items())


@needs_kubectl
def test_each_pod_reaches_what_it_needs_and_no_more() -> None:
    objects = built("prefect")
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    (work,), (init,) = built("overlays/gpu"), built("workspace")

    def ports(job: dict[str, Any]) -> set[int]:
        labels = job["spec"]["template"]["metadata"]["labels"]
        mine = [each for each in policies if selects(each, labels)]
        assert len(mine) == 2, "one that forbids all, one that allows"
        return {port["port"] for each in mine for rule in each["spec"].get("egress", []) for port in rule["ports"]}

    assert ports(work) == {53, 443, 9000}
    assert ports(flow_run_job()) == ports(init) == ports(deployment) == {53, 443, 9000, 4200, 6443}


@needs_kubectl
def test_the_workspace_is_made_where_flow_runs_look_for_it() -> None:
    (job,) = built("workspace")
    check(job)
    made, used = (each["spec"]["template"]["spec"]["volumes"][0] for each in (job, flow_run_job()))
    assert made == used
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    work = next(
        each
        for each in flow_run_job()["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        if each["name"] == "work"
    )
    assert f"runner.job={work['mountPath']}/work.yaml" in args


@needs_kubectl
@pytest.mark.parametrize("overlay", ["cpu", "gpu", "kueue"])
def test_the_job_of_an_overlay_is_valid_and_is_what_the_runner_reads(overlay: str, tmp_path: Path) -> None:
    (job,) = built(f"overlays/{overlay}")
    check(job)
    check_rules(job)
    path = tmp_path / "work.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    made = kubernetes.manifest(ORDER, RunnerConfig(kind="kubernetes", job=str(path)))
    check(made)
    check_rules(made)
    pod = made["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == ("tolerations" in pod) == (overlay != "cpu")
    assert (
        ("kueue.x-k8s.io/queue-name" in made["metadata"]["labels"])
        == ("suspend" in made["spec"])
        == (overlay == "kueue")
    )
    assert ":" in pod["containers"][0]["image"]


def test_the_job_is_made_for_what_is_ordered() -> None:
    made = kubernetes.manifest(ORDER, RunnerConfig(kind="kubernetes", job=str(WORK), retries=2))
    spec = made["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (
        4,
        4,
        2,
        4,
    )
    pod = spec["template"]["spec"]
    grace = str(pod["terminationGracePeriodSeconds"] - 5)
    part = ["--part", "$(JOB_COMPLETION_INDEX)/4", "--grace", grace]
    assert pod["containers"][0]["args"] == ["work", "s3://bucket/data", "run", *part, *TOLD]
    check(made)
    check_rules(made)
    again = kubernetes.manifest(ORDER, RunnerConfig(kind="kubernetes", job=str(WORK)))
    assert again["metadata"]["name"] != made["metadata"]["name"]


def test_a_file_by_itself_agrees_with_its_grace() -> None:
    pod = yaml.safe_load(WORK.read_text("utf-8"))["spec"]["template"]["spec"]
    args = pod["containers"][0]["args"]
    assert int(args[args.index("--grace") + 1]) == pod["terminationGracePeriodSeconds"] - 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: Job", "'spec'"),
        ("[1, 2]", "list"),
        ("a: [", "expected"),
        (
            "{kind: Pod, spec: {completionMode: Indexed, template: {spec: {containers: [{name: worker}]}}}}",
            "kind isn't Job",
        ),
        ("{kind: Job, spec: {completionMode: Indexed, template: {spec: {containers: [{name: other}]}}}}", "'worker'"),
    ],
)
def test_another_manifest_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "work.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=f"work.yaml: not an Indexed Job with a container 'worker'.*{why}"):
        kubernetes.manifest(ORDER, RunnerConfig(kind="kubernetes", job=str(path)))


class Cluster:
    """An API server that knows Jobs.

    Attributes:
        jobs: by name.
        asked: method and path of each request.
        condition: what is said of a Job that is looked at; None: it goes on.
        later: what happens when a Job was looked at three times.
        refusals: statuses with which the next requests end instead; 0 drops the connection after it was carried out.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.condition: dict[str, str] | None = None
        self.later: Callable[[], None] = lambda: None
        self.refusals: list[int] = []

    def completes(self) -> None:
        self.condition = ended("Complete")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that KUBECONFIG names."""
    made = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name = job["metadata"]["name"]
            there = name in made.jobs
            made.jobs[name] = job
            self._answer(HTTPStatus.CONFLICT if there else HTTPStatus.CREATED, job)

        def do_GET(self) -> None:
            if sum(method == "GET" for method, _ in made.asked) == 3:
                made.later()
            job = made.jobs.get(self.path.rpartition("/")[2])
            conditions = [made.condition] if made.condition else []
            status = {"status": {"conditions": conditions, "failedIndexes": "1,3"}}
            self._answer(HTTPStatus.OK if job else HTTPStatus.NOT_FOUND, {**(job or {}), **status})

        def do_DELETE(self) -> None:
            made.jobs.pop(self.path.rpartition("/")[2].partition("?")[0], None)
            self._answer(HTTPStatus.OK, {"kind": "Status"})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            made.asked.append((self.command, self.path))
            if made.refusals:
                status = made.refusals.pop(0)
                if not status:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.server_port)))
    monkeypatch.setattr(tasks.cluster_jobs, "LOOK_S", 0.05)
    yield made
    server.shutdown()


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    named = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [named],
        "contexts": [context],
    }
    path.write_text(yaml.safe_dump({**config, "users": [{"name": "here", "user": {}}]}), "utf-8")
    return path


RUNNER = RunnerConfig(kind="kubernetes", job=str(WORK))


def ended(kind: str) -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": "FailedIndexes", "message": "Job has failed indexes"}


def test_a_job_that_completes(cluster: Cluster) -> None:
    cluster.later = cluster.completes
    kubernetes.run(ORDER, RUNNER)
    (job,) = cluster.jobs.values()
    assert job["spec"]["completions"] == 4
    assert {method for method, _ in cluster.asked} == {"POST", "GET"}
    assert len(cluster.asked) == 5
    assert all(path.startswith("/apis/batch/v1/namespaces/default/jobs") for _, path in cluster.asked)


def test_a_job_that_fails_says_why_and_stays_to_be_looked_at(cluster: Cluster) -> None:
    cluster.condition = ended("Failed")
    with pytest.raises(IncompleteRunError, match=r"FailedIndexes: Job has failed indexes; indexes that failed: 1,3"):
        kubernetes.run(ORDER, RUNNER)
    assert cluster.jobs


def test_a_condition_that_is_not_so_ends_nothing(cluster: Cluster) -> None:
    cluster.condition = {**ended("Failed"), "status": "False"}
    cluster.later = cluster.completes
    kubernetes.run(ORDER, RUNNER)


def test_a_job_that_somebody_deletes(cluster: Cluster) -> None:
    cluster.later = cluster.jobs.clear
    with pytest.raises(IncompleteRunError, match="was deleted"):
        kubernetes.run(ORDER, RUNNER)


def test_a_cluster_that_refuses(cluster: Cluster) -> None:
    cluster.refusals = [403]
    with pytest.raises(InputError, match="Kubernetes refuses: 403"):
        kubernetes.run(ORDER, RUNNER)


def test_answers_that_are_lost_make_no_second_job_and_end_none(cluster: Cluster) -> None:
    cluster.refusals = [0, 500, 201, 503, 429]
    cluster.later = cluster.completes
    kubernetes.run(ORDER, RUNNER)
    assert len(cluster.jobs) == 1
    assert "DELETE" not in {method for method, _ in cluster.asked}


def test_a_cluster_that_is_gone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.cluster_jobs, "PATIENCE_S", 0.3)
    cluster.refusals = [201] + [503] * 1000
    with pytest.raises(TransientError, match="Kubernetes: 503"):
        kubernetes.run(ORDER, RUNNER)
    assert cluster.asked[-1][0] == "DELETE"


def test_there_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no cluster"):
        kubernetes.run(ORDER, RUNNER)


FLOW = """
import signal, sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.synthesis.settings import RunnerConfig
from tasks.fleet import Order
from tasks.stopping import exits, stoppable

kind, job = sys.argv[1:]
signal.signal(signal.SIGTERM, exits)
with stoppable(), ThreadPoolExecutor() as pool:
    order = Order(StoreConfig(url="s3://bucket/data"), "run", 4, "cpu", 600.0)
    pool.submit(import_module(f"tasks.cluster_jobs.{kind}").run, order, RunnerConfig(kind=kind, job=job)).result()
"""
"""As flows/fleet.py waits for a job: in a thread, while the main one hears of signals."""


@contextmanager
def flow(kind: str, job: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", FLOW, kind, str(job)], cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interruption_deletes_the_job(cluster: Cluster) -> None:
    with flow("kubernetes", WORK) as process:
        wait_for(lambda: any(method == "GET" for method, _ in cluster.asked))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert time.monotonic() - began < 6, "the process is ended after that, whatever it is doing"
    assert not cluster.jobs
    assert cluster.asked[-1][0] == "DELETE"
    assert "propagationPolicy=Foreground" in cluster.asked[-1][1]


class Slurm:
    """Executables that stand for Slurm's: each notes its arguments and does what its script says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"

    def does(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.notes}\n{script}\n', "utf-8")
        path.chmod(0o755)

    def asked(self, name: str) -> list[list[str]]:
        lines = self.notes.read_text("utf-8").splitlines() if self.notes.is_file() else []
        return [line.split()[1:] for line in lines if line.split()[0] == name]


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A Slurm whose arrays go on as long as the file ``runs`` is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Slurm(folder)
    made.does("sbatch", f'touch {folder}/runs; echo "4711;here"')
    made.does("squeue", f"test -e {folder}/runs && echo '4711_[0-3] gpu medsynth R'; true")
    made.does("scancel", f"rm -f {folder}/runs")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(tasks.cluster_jobs, "LOOK_S", 0.05)
    return made


ARRAY = RunnerConfig(kind="slurm", job=str(BATCH_SCRIPT))


def test_an_array_is_submitted_and_waited_for(cell: Slurm) -> None:
    cell.does("squeue", f"test $(grep -c squeue {cell.notes}) -gt 2 || echo '4711_[0-3] gpu medsynth R'")
    slurm.run(ORDER, ARRAY)
    told = ["s3://bucket/data", "run", "4", *TOLD]
    assert cell.asked("sbatch") == [["--parsable", "--array=0-3", str(BATCH_SCRIPT), *told]]
    assert len(cell.asked("squeue")) == 3
    assert cell.asked("squeue")[0] == ["--noheader", "--job", "4711"]
    assert not cell.asked("scancel")


def test_an_array_that_slurm_has_forgotten_is_over(cell: Slurm) -> None:
    cell.does("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    slurm.run(ORDER, ARRAY)
    assert not cell.asked("scancel")


def test_a_controller_that_does_not_answer_ends_no_array(cell: Slurm) -> None:
    cell.does(
        "squeue",
        f"test $(grep -c squeue {cell.notes}) -gt 3 || "
        "{ echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1; }",
    )
    slurm.run(ORDER, ARRAY)
    assert len(cell.asked("squeue")) == 4
    assert not cell.asked("scancel")


def test_slurm_refuses(cell: Slurm) -> None:
    cell.does("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(InputError, match="invalid partition specified"):
        slurm.run(ORDER, ARRAY)
    assert not cell.asked("squeue")


def test_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch on this machine"):
        slurm.run(ORDER, ARRAY)


def test_an_interruption_cancels_the_array(cell: Slurm) -> None:
    with flow("slurm", BATCH_SCRIPT) as process:
        wait_for(lambda: cell.asked("squeue"))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert time.monotonic() - began < 6, "the process is ended after that, whatever it is doing"
    assert cell.asked("scancel") == [["4711"]]


def test_the_batch_script_becomes_its_worker(cell: Slurm, tmp_path: Path) -> None:
    cell.does("medsynth", "echo $$ > pid; sleep 60 & wait")
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "2"}
    arguments = ["s3://bucket/data", "run", "4", *TOLD]
    with subprocess.Popen(["bash", BATCH_SCRIPT, *arguments], env=environment, cwd=tmp_path) as process:
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip())
        assert int((tmp_path / "pid").read_text()) == process.pid, "Slurm signals the batch shell alone"
        process.terminate()
    (told,) = cell.asked("medsynth")
    assert told == ["work", "s3://bucket/data", "run", "--part", "2/4", "--grace", "100", *TOLD]


def test_compose_shows_nothing_to_others_and_has_no_secrets() -> None:
    text = (REPOSITORY / "infra" / "compose.yaml").read_text("utf-8")
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "healthcheck" in service or name == "setup", name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH_STRING|URL$", variable) and value and "://" not in value:
                assert value.startswith("${"), f"{name}: {variable}"
    example = (REPOSITORY / "infra" / "compose.example.env").read_text("utf-8")
    for needed in re.findall(r"\$\{(\w+):\?", text):
        assert re.search(rf"^{needed}=", example, re.MULTILINE), needed


@pytest.mark.parametrize("name", ["image.lock", "build.lock"])
def test_the_image_is_built_from_hashes(name: str) -> None:
    lines = (REPOSITORY / "infra" / name).read_text("utf-8").splitlines()
    pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]
    assert all(re.match(r"[a-z0-9.-]+==\S+( ;.*)? \\$", line) for line in pinned)
    assert not [line for line in pinned if line.startswith("medsynth")], "a stranger's package by our name"
    if name == "image.lock":
        here = (REPOSITORY / "requirements.lock").read_text("utf-8").splitlines()
        assert set(pinned) <= set(here)
