"""Slurm: an array of workers, by the batch script that ``runner.job`` names."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from medsynth_core.errors import ConfigError, InputError, MedsynthError, TransientError
from medsynth_core.synthesis.settings import RunnerConfig
from tasks.cluster_jobs import options, wait_until

if TYPE_CHECKING:
    from tasks.fleet import Order

_OVER = "invalid job id"
"""What Slurm says of a job that is long over."""
_PASSES = ("unable to contact slurm controller", "connection refused", "timed out", "temporarily", "zero bytes")
"""What it says while its controller doesn't answer."""


def run(order: Order, runner: RunnerConfig) -> None:
    """Submits the script as an array, with store, run, number of parts and further options of ``medsynth work`` as its
    arguments, waits for its end, and cancels it when it is interrupted.

    Raises:
        ConfigError: there is no Slurm on this machine.
        InputError: Slurm refuses it.
        TransientError: Slurm doesn't answer.
    """
    assert runner.job is not None, "checked before anything was begun"
    array = f"--array=0-{order.workers - 1}"
    told = [order.store.url, order.run_id, str(order.workers), *options(order)]
    number = _asked("sbatch", "--parsable", array, runner.job, *told).partition(";")[0]
    try:
        wait_until(lambda: not _is_there(number))
    except BaseException:
        with suppress(MedsynthError):
            _asked("scancel", number)
        raise


def _is_there(number: str) -> bool:
    try:
        return bool(_asked("squeue", "--noheader", "--job", number))
    except InputError as error:
        if _OVER in str(error).lower():
            return False
        raise


def _asked(*command: str) -> str:
    """Returns what a command of Slurm's prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(f"runner.kind slurm: no {command[0]} on this machine; run where Slurm is") from error
    if done.returncode == 0:
        return done.stdout.strip()
    said = f"{' '.join(command)}: {' '.join(done.stderr.split())}"
    if any(each in said.lower() for each in _PASSES):
        raise TransientError(said)
    raise InputError(said)
