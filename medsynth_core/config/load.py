"""Reading, overriding and writing the configuration tree."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medsynth_core.config.tree import Config
from medsynth_core.errors import ConfigError
from medsynth_core.hashing import sha256_json

PRESETS = ("demo", "h200-small", "paper")


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
    if not path.is_file():
        raise ConfigError(f"{path}: not found; make a workspace with `medsynth init DIR` or go to one")
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections (key: value), found {type(tree).__name__}")
    if preset is not None:
        tree = _merged(tree, preset_tree(preset))
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(path))


def configure(overrides: Iterable[str], preset: str | None = None) -> Config:
    """Returns the defaults with a preset and then overrides laid over them.

    Raises:
        ConfigError: as ``load_config``.
    """
    tree: dict[str, Any] = {} if preset is None else preset_tree(preset)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, "--set")


def preset_tree(name: str) -> dict[str, Any]:
    """Returns the values that a preset changes.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
    text = resources.files("medsynth_core.config").joinpath(f"presets/{name}.yaml").read_text("utf-8")
    tree: dict[str, Any] = yaml.safe_load(text) or {}
    return tree


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Returns the validated tree; keys that it doesn't name keep their defaults.

    Raises:
        ConfigError: names every wrong key in one line, with the nearest known key.
    """
    try:
        return Config.model_validate(_merged(Config().model_dump(mode="json"), tree))
    except ValidationError as error:
        problems = "; ".join(_describe(item) for item in error.errors()[:5])
        raise ConfigError(f"{source}: {problems}") from None


def dump_config(config: Config) -> str:
    """Returns params.yaml text in the order of the tree; reading it back gives an equal tree."""
    stream = io.StringIO()
    yaml.safe_dump(config.model_dump(mode="json"), stream, sort_keys=False, allow_unicode=True, width=100)
    return stream.getvalue()


def config_digest(*sections: BaseModel | Mapping[str, Any] | int | str) -> str:
    """Returns a hex digest of the given sections' values, in order."""
    return sha256_json([s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections])


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value isn't YAML: {' '.join(str(error).split())}") from error
    *sections, leaf = dotted.split(".")
    node = tree
    for section in sections:
        below = node.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override!r}: {section} is a value, not a section")
        node = below
    node[leaf] = value


def _describe(item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location, _known_keys(Config), n=1, cutoff=0.0)
        return f"unknown key {location}; did you mean {nearest[0]}?"
    message = item["msg"].removeprefix("Value error, ")
    found = item.get("input")
    shown = f" (found {found!r})" if not isinstance(found, dict | BaseModel) else ""
    return f"{location}: {message}{shown}" if location else message


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys.extend(_known_keys(kind, f"{prefix}{name}."))
    return keys
