"""What every flow does first: read the parameters and check, in seconds, what would otherwise fail after hours."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth_core.errors import InputError, MedsynthError
from medsynth_core.storage.atomic import full_disk
from medsynth_core.workspace.check import check
from medsynth_core.workspace.init import configure_store
from medsynth_core.workspace.params import differences, load_config
from medsynth_core.workspace.record import newest_release
from medsynth_core.workspace.tree import Config


@dataclass(frozen=True)
class Prepared:
    """What a run is to do; params.yaml isn't read again.

    Attributes:
        root: the workspace's folder.
        changes: the parameters that are otherwise than in params.yaml, for this run alone, by their dotted names.
    """

    root: Path
    config: Config
    changes: dict[str, Any]


_handed_over: dict[tuple[Any, ...], Prepared] = {}


def prepare(
    workspace: str | Path, overrides: Sequence[str] = (), preset: str | None = None, extend: bool = False
) -> Prepared:
    """Returns what a run is to do, checked, having pointed DVC to the store.

    Args:
        workspace: folder of params.yaml, which is left as it is.
        overrides: changes of this run's own, as section.key=value.
        preset: laid over params.yaml before them.
        extend: make the newest release of the workspace, if there is one, the parent of the next.

    Raises:
        MedsynthError: a setting names what isn't there or can't be used.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    root = Path(workspace).expanduser().resolve()
    with full_disk(root):
        return _prepared(root, overrides, preset, extend)


def _prepared(root: Path, overrides: Sequence[str], preset: str | None, extend: bool) -> Prepared:
    if (found := _handed_over.pop(_asked(root, overrides, preset, extend), None)) is not None:
        return found
    if not root.is_dir():
        raise InputError(f"{root}: no such folder on {socket.gethostname()}; a run needs its workspace on its machine")
    path = root / "params.yaml"
    kept = load_config(path)
    config = load_config(path, overrides, preset)
    if extend:
        newest = newest_release(root, config.release.name)
        config = load_config(path, [*overrides, f"release.parent={newest or 'null'}"], preset)
    check(config, root)
    configure_store(root, config)
    return Prepared(root, config, differences(kept, config))


def hand_over(prepared: Prepared, overrides: Sequence[str], preset: str | None, extend: bool) -> None:
    """Gives what was prepared to the flow that this process starts next, with the same arguments."""
    _handed_over[_asked(prepared.root, overrides, preset, extend)] = prepared


def _asked(root: Path, overrides: Sequence[str], preset: str | None, extend: bool) -> tuple[Any, ...]:
    return (root, tuple(overrides), preset, extend)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed run with its traceback; of our own errors the message says all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MedsynthError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True
