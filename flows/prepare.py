"""What every flow does first: read the parameters and check, in seconds, what would otherwise fail after hours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from medsynth_core.errors import MedsynthError
from medsynth_core.workspace.check import check
from medsynth_core.workspace.init import configure_store
from medsynth_core.workspace.params import load_config, write_config
from medsynth_core.workspace.record import newest_release
from medsynth_core.workspace.tree import Config

_checked: set[tuple[Path, str]] = set()


def prepare(
    workspace: str | Path, overrides: Sequence[str] = (), preset: str | None = None, extend: bool = False
) -> tuple[Path, Config]:
    """Returns the workspace's folder and its configuration, checked; what was overridden is kept in params.yaml, and
    DVC is pointed to the store.

    Args:
        extend: make the newest release of the workspace, if there is one, the parent of the next.

    Raises:
        MedsynthError: a setting names what isn't there or can't be used.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    root = Path(workspace).expanduser().resolve()
    config = load_config(root / "params.yaml", overrides, preset)
    if extend:
        overrides = [*overrides, f"release.parent={newest_release(root, config.release.name) or 'null'}"]
        config = load_config(root / "params.yaml", overrides, preset)
    if (root, config.model_dump_json()) not in _checked:
        check(config, root)
    configure_store(root, config)
    if overrides or preset:
        write_config(root / "params.yaml", config)
    return root, config


def trust(root: Path, config: Config) -> None:
    """Notes that a run was checked, so that the flow doesn't check it again; only for a process that starts one run, at
    once, and ends with it."""
    _checked.add((root, config.model_dump_json()))


def _without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed run with its traceback; of our own errors the message says all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MedsynthError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True
