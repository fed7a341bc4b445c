"""Entries of ``evaluation.extractors`` and ``evaluation.judges``: a module's name, with a place after a colon where the
module takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsynth_core.config import Paths
from medsynth_core.config.plugins import Plugins
from medsynth_core.errors import ConfigError


def open_entry(networks: Plugins, entry: str, paths: Paths) -> Any:
    """Returns the network of an entry.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    name, place = _split(networks, entry)
    return networks.open(name, place, paths)


def check_entry(networks: Plugins, entry: str, paths: Paths) -> None:
    """Checks, before any work, that an entry's network can be opened.

    Raises:
        MedsynthError: it can't.
    """
    name, place = _split(networks, entry)
    networks.ask(name, "check", place, paths)


def file_at(place: str, paths: Paths) -> Path:
    """Returns the path of a file that is named relative to the workspace."""
    return paths.root / Path(place).expanduser()


def _split(networks: Plugins, entry: str) -> tuple[str, str]:
    """Returns name and place, "" without one, as the module's ``PLACE`` wants them: needed, optional, or none."""
    name, _, place = entry.partition(":")
    wanted = getattr(networks.load(name), "PLACE", "none")
    if place and wanted == "none":
        raise ConfigError(f"{networks.setting}: {entry!r} names a place, but {name} takes none; write {name} alone")
    if not place and wanted == "needed":
        raise ConfigError(f"{networks.setting}: {name} needs a place, its weights' or its model's; write {name}:PLACE")
    return name, place
