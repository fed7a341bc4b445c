"""params.yaml: read, overridden, checked and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from medsynth_core.config.dotted import flat
from medsynth_core.config.load import dump, merged, override, parse, read_preset, read_tree
from medsynth_core.storage.atomic import write_bytes_atomically
from medsynth_core.workspace.tree import Config

Preset = Literal["demo", "films", "h200-small", "h200-512", "paper"]
PRESETS: tuple[str, ...] = get_args(Preset)


def load_config(path: Path, overrides: Iterable[str] = (), preset: str | None = None) -> Config:
    """Returns the validated tree of a params.yaml with a preset and then overrides laid over it.

    Args:
        path: params.yaml.
        overrides: ``section.key=value`` strings; the value is read as YAML.
        preset: a name of ``PRESETS``, laid over params.yaml.

    Raises:
        ConfigError: the file is missing or isn't YAML, a key is unknown (the nearest known one is named) or
            a value is out of range.
    """
    tree = merged(read_tree(path), preset_tree(preset))
    override(tree, overrides)
    return parse_config(tree, str(path))


def configure(overrides: Iterable[str], preset: str | None = None) -> Config:
    """Returns the defaults with a preset and then overrides laid over them.

    Raises:
        ConfigError: as ``load_config``.
    """
    tree = preset_tree(preset)
    override(tree, overrides)
    return parse_config(tree, "--set")


def preset_tree(name: str | None) -> dict[str, Any]:
    """Returns the values that a preset changes; none without a name.

    Raises:
        ConfigError: there is no preset of that name.
    """
    folder = resources.files("medsynth_core.workspace").joinpath("presets")
    return {} if name is None else read_preset(folder, name, PRESETS)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Returns the validated tree; keys that it doesn't name keep their defaults.

    Raises:
        ConfigError: names every wrong key in one line, with the nearest known key.
    """
    return parse(Config, tree, source)


def dump_config(config: Config) -> str:
    """Returns params.yaml text in the order of the tree; reading it back gives an equal tree."""
    return dump(config)


def differences(kept: Config, used: Config) -> dict[str, Any]:
    """Returns the values of ``used`` that ``kept`` has otherwise, by their dotted names."""
    before, after = flat(kept.model_dump(mode="json")), flat(used.model_dump(mode="json"))
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def write_config(path: Path, config: Config) -> None:
    """Writes params.yaml, whole or not at all: a run that is cut off must find what it began with."""
    write_bytes_atomically(path, dump_config(config).encode())
