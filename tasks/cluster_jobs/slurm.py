"""Slurm: an array of workers, by the batch script that ``runner.job`` names."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from medsynth_core.errors import ConfigError, InputError
from medsynth_core.synthesis.settings import RunnerConfig

if TYPE_CHECKING:
    from tasks.fleet import Order

_LOOK_S = 10.0


def run(order: Order, runner: RunnerConfig) -> None:
    """Submits the script as an array, with store, run and number of parts as its arguments, and waits for its end.

    Raises:
        ConfigError: there is no Slurm on this machine.
        InputError: Slurm refuses it.
    """
    assert runner.job is not None, "checked before anything was begun"
    array = f"--array=0-{order.workers - 1}"
    name = _asked("sbatch", "--parsable", array, runner.job, order.store.url, order.run_id, str(order.workers))
    number = name.partition(";")[0]
    try:
        while _asked("squeue", "--noheader", "--job", number, missing=""):
            time.sleep(_LOOK_S)
    except BaseException:
        _asked("scancel", number, missing="")
        raise


def _asked(*command: str, missing: str | None = None) -> str:
    """Returns what a command of Slurm's prints.

    Args:
        missing: what it stands for when Slurm refuses, as it does for a job that is long over.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(f"runner.kind slurm: no {command[0]} on this machine; run where Slurm is") from error
    if done.returncode == 0:
        return done.stdout.strip()
    if missing is None:
        raise InputError(f"{' '.join(command)}: {' '.join(done.stderr.split())}")
    return missing
