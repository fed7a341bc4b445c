"""Kubernetes: an Indexed Job of workers, by the manifest that ``runner.job`` names."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from medsynth_core.errors import ConfigError, IncompleteRunError, InputError, MedsynthError, TransientError
from medsynth_core.synthesis.settings import RunnerConfig
from tasks.cluster_jobs import options, patiently, wait_until

if TYPE_CHECKING:
    from tasks.fleet import Order

_CONTAINER = "worker"
_GRACE_S, _TO_END_S = 30, 5
"""What Kubernetes gives a pod by default to end, and what of that a worker has after its shards."""
_TIMEOUT_S = (5.0, 30.0)
"""For a connection, and for an answer."""


def run(order: Order, runner: RunnerConfig) -> None:
    """Creates the Job, waits for its end, and deletes it when it is interrupted.

    Raises:
        ConfigError: there is no cluster.
        InputError: the manifest is no Indexed Job with a container ``worker``, or the cluster refuses it.
        IncompleteRunError: the Job failed, or somebody deleted it.
        TransientError: the cluster doesn't answer any more.
    """
    job = manifest(order, runner)
    jobs = _connected()
    name, space = job["metadata"]["name"], job["metadata"].setdefault("namespace", _own_namespace())

    def create() -> None:
        try:
            _asked(jobs.create_namespaced_job, space, job)
        except _RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:  # which is this one: only the answer was lost
                raise

    def is_over() -> bool:
        try:
            status = _asked(jobs.read_namespaced_job, name, space).status
        except _RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise IncompleteRunError(f"Job {space}/{name} was deleted; run again and it goes on") from error
            raise
        ended = {each.type: each for each in status.conditions or () if each.status == "True"}
        if "Failed" in ended:
            why = ended["Failed"]
            raise IncompleteRunError(
                f"Job {space}/{name}: {why.reason}: {why.message}; indexes that failed: {status.failed_indexes}"
            )
        return "Complete" in ended

    try:
        patiently(create)
        wait_until(is_over)
    except IncompleteRunError:
        raise
    except BaseException:
        with suppress(MedsynthError):
            _asked(jobs.delete_namespaced_job, name, space, propagation_policy="Foreground")
        raise


def manifest(order: Order, runner: RunnerConfig) -> dict[str, Any]:
    """Returns the Job of ``runner.job`` with a name of its own, its number of parts and what its workers are told.

    Raises:
        InputError: it is no Indexed Job with a container ``worker``.
    """
    assert runner.job is not None, "checked before anything was begun"
    path = Path(runner.job)
    try:
        job = yaml.safe_load(path.read_text("utf-8"))
        spec = job["spec"]
        pod = spec["template"]["spec"]
        worker = {each["name"]: each for each in pod["containers"]}[_CONTAINER]
        if job["kind"] != "Job" or spec["completionMode"] != "Indexed":
            raise ValueError("kind isn't Job, or completionMode isn't Indexed")
        grace_s = max(0, pod.get("terminationGracePeriodSeconds", _GRACE_S) - _TO_END_S)
        most_failed = spec.get("maxFailedIndexes", order.workers)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not an Indexed Job with a container {_CONTAINER!r} ({' '.join(str(error).split())})"
        ) from error
    spec["completions"] = spec["parallelism"] = order.workers
    spec["backoffLimitPerIndex"] = runner.retries
    spec["maxFailedIndexes"] = min(most_failed, order.workers)  # Kubernetes refuses more
    # Named here: a request whose answer is lost is made again, and must not make a second Job.
    job["metadata"] = {**(job.get("metadata") or {}), "name": f"medsynth-work-{secrets.token_hex(4)}"}
    job["metadata"].pop("generateName", None)
    part = f"$(JOB_COMPLETION_INDEX)/{order.workers}"
    worker["args"] = ["work", order.store.url, order.run_id, "--part", part, "--grace", str(grace_s), *options(order)]
    return job  # type: ignore[no-any-return]


def _connected() -> Any:
    """Returns a client of the cluster that KUBECONFIG or ~/.kube/config names, else of the one that this pod is in."""
    named = os.environ.get("KUBECONFIG")
    try:
        if named or Path("~/.kube/config").expanduser().is_file():
            config.load_kube_config(config_file=named)
        else:
            config.load_incluster_config()
    except ConfigException as error:
        raise ConfigError(f"runner.kind kubernetes: no cluster ({error}); run in a pod, or set KUBECONFIG") from error
    return client.BatchV1Api()


def _own_namespace() -> str:
    place = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return place.read_text("utf-8").strip() if place.is_file() else "default"


class _RefusedError(InputError):
    def __init__(self, error: ApiException) -> None:
        super().__init__(f"Kubernetes refuses: {error.status} {error.reason}: {error.body}")
        self.status = error.status


def _asked(call: Any, *given: Any, **more: Any) -> Any:
    try:
        return call(*given, **more, _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        if error.status in {0, 429, 500, 502, 503, 504}:
            raise TransientError(f"Kubernetes: {error.status} {error.reason}") from error
        raise _RefusedError(error) from error
    except HTTPError as error:
        raise TransientError(f"Kubernetes doesn't answer: {error}") from error
