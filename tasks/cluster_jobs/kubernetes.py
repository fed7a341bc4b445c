"""Kubernetes: an Indexed Job of workers, by the manifest that ``runner.job`` names."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from medsynth_core.errors import ConfigError, IncompleteRunError, InputError, TransientError
from medsynth_core.synthesis.settings import RunnerConfig

if TYPE_CHECKING:
    from tasks.fleet import Order

_LOOK_S = 10.0
_CONTAINER = "worker"


def run(order: Order, runner: RunnerConfig) -> None:
    """Creates the Job, waits for its end, and deletes it when it is interrupted.

    Raises:
        ConfigError: there is no cluster.
        InputError: the manifest is no Indexed Job with a container ``worker``, or the cluster refuses it.
        IncompleteRunError: the Job failed.
    """
    job = manifest(order, runner)
    try:
        config.load_config()
    except ConfigException as error:
        raise ConfigError(f"runner.kind kubernetes: no cluster ({error}); run in a pod, or set KUBECONFIG") from error
    jobs = client.BatchV1Api()
    space = job["metadata"].setdefault("namespace", _own_namespace())
    name = _asked(jobs.create_namespaced_job, space, job).metadata.name
    try:
        while True:
            status = _asked(jobs.read_namespaced_job_status, name, space).status
            ended = {each.type: each for each in status.conditions or () if each.status == "True"}
            if "Complete" in ended:
                return
            if "Failed" in ended:
                why = ended["Failed"]
                raise IncompleteRunError(
                    f"Job {space}/{name}: {why.reason}: {why.message}; indexes that failed: {status.failed_indexes}"
                )
            time.sleep(_LOOK_S)
    except IncompleteRunError:
        raise
    except BaseException:
        jobs.delete_namespaced_job(name, space, propagation_policy="Foreground")
        raise


def manifest(order: Order, runner: RunnerConfig) -> dict[str, Any]:
    """Returns the Job of ``runner.job`` with its number of parts and what its workers are told.

    Raises:
        InputError: it is no Indexed Job with a container ``worker``.
    """
    assert runner.job is not None, "checked before anything was begun"
    path = Path(runner.job).expanduser()
    try:
        job = yaml.safe_load(path.read_text("utf-8"))
        spec = job["spec"]
        containers = {each["name"]: each for each in spec["template"]["spec"]["containers"]}
        worker = containers[_CONTAINER]
        if job["kind"] != "Job" or spec["completionMode"] != "Indexed":
            raise ValueError("kind isn't Job, or completionMode isn't Indexed")
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not an Indexed Job with a container {_CONTAINER!r} ({' '.join(str(error).split())})"
        ) from error
    spec["completions"] = spec["parallelism"] = order.workers
    spec["backoffLimitPerIndex"] = runner.retries
    job["metadata"].pop("name", None)
    job["metadata"]["generateName"] = "medsynth-work-"
    part = f"$(JOB_COMPLETION_INDEX)/{order.workers}"
    worker["args"] = ["work", order.store.url, order.run_id, "--part", part]
    if order.store.endpoint_url is not None:
        worker["args"] += ["--endpoint-url", order.store.endpoint_url]
    if order.store.region is not None:
        worker["args"] += ["--region", order.store.region]
    worker["args"] += ["--device", order.device, "--lost-after", f"{order.lost_after_s:g}"]
    return job  # type: ignore[no-any-return]


def _own_namespace() -> str:
    place = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return place.read_text("utf-8").strip() if place.is_file() else "default"


def _asked(call: Any, *given: Any) -> Any:
    try:
        return call(*given)
    except ApiException as error:
        if error.status in {429, 500, 502, 503, 504}:
            raise TransientError(f"Kubernetes: {error.status} {error.reason}") from error
        raise InputError(f"Kubernetes refuses: {error.status} {error.reason}: {error.body}") from error
