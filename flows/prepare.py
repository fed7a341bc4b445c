"""What every flow does first: read the parameters and check, in seconds, what would otherwise fail after hours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from medsynth_core.errors import MedsynthError
from medsynth_core.workspace.check import check
from medsynth_core.workspace.init import configure_store
from medsynth_core.workspace.params import load_config, write_config
from medsynth_core.workspace.record import newest_release
from medsynth_core.workspace.tree import Config


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
    _check_once(config.model_dump_json(), root)
    configure_store(root, config)
    if overrides or preset:
        write_config(root / "params.yaml", config)
    return root, config


@lru_cache(maxsize=1)
def _check_once(config_json: str, root: Path) -> None:
    """Checks a run; not a second time when the command line, which did before it loaded Prefect, starts the flow."""
    check(Config.model_validate_json(config_json), root)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed run with its traceback; of our own errors the message says all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MedsynthError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True
