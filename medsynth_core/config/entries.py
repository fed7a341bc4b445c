"""Entries of a list of params.yaml that name modules (``Plugins``), such as ``evaluation.extractors``: a module's name,
with a place after a colon where the module takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsynth_core.config.paths import Paths
from medsynth_core.config.plugins import Plugins
from medsynth_core.errors import ConfigError


def open_entry(modules: Plugins, entry: str, *given: Any) -> Any:
    """Returns what an entry's module makes of its place, "" without one, and of the arguments.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    name, place = _split(modules, entry)
    return modules.open(name, place, *given)


def check_entry(modules: Plugins, entry: str, paths: Paths) -> None:
    """Checks, before any work, that an entry can be opened.

    Raises:
        MedsynthError: it can't.
    """
    name, place = _split(modules, entry)
    modules.ask(name, "check", place, paths)


def inputs_of(modules: Plugins, entry: str, *given: Any) -> list[Any]:
    """Returns the entry's module and what it says that its results follow from (``inputs``), as JSON has it; not the
    place, which may be another one on another machine.

    Raises:
        ConfigError: as ``open_entry``.
    """
    name, place = _split(modules, entry)
    return [name, *modules.ask(name, "inputs", place, *given, default=[])]


def file_at(place: str, paths: Paths) -> Path:
    """Returns the path of a file that is named relative to the workspace."""
    return paths.root / Path(place).expanduser()


def _split(modules: Plugins, entry: str) -> tuple[str, str]:
    """Returns name and place, "" without one, as the module's ``PLACE`` wants them: needed, optional, or none."""
    name, _, place = entry.partition(":")
    wanted = getattr(modules.load(name), "PLACE", "none")
    if place and wanted == "none":
        raise ConfigError(f"{modules.setting}: {entry!r} names a place, but {name} takes none; write {name} alone")
    if not place and wanted == "needed":
        raise ConfigError(f"{modules.setting}: {name} needs a place, its weights' or its model's; write {name}:PLACE")
    return name, place
