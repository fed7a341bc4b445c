"""Reading, overriding and writing a tree of sections, whichever sections it has."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medsynth_core.config.section import Section
from medsynth_core.errors import ConfigError
from medsynth_core.hashing import sha256_json
from medsynth_core.nearest import did_you_mean

_Tree = TypeVar("_Tree", bound=Section)


_BEGINS, _ENDS = "---", "..."
"""YAML's marks of a document's begin and end: with both, one sees whether a file is whole."""


def read_tree(path: Path) -> dict[str, Any]:
    """Returns the sections of a YAML file, unchecked.

    Raises:
        ConfigError: the file is missing, isn't YAML or was cut off.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: not found; make a workspace with `medsynth init DIR` or go to one")
    try:
        text = path.read_text("utf-8")
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and lines[0] == _BEGINS and lines[-1] != _ENDS:
        raise ConfigError(
            f"{path}: cut off, after {lines[-1]!r}: it begins with {_BEGINS} and doesn't end with {_ENDS}; restore it "
            f"(`git checkout -- {path.name}`), or end it with that line if it is whole"
        )
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections (key: value), found {type(tree).__name__}")
    return tree


def read_preset(folder: Traversable, name: str, known: Iterable[str]) -> dict[str, Any]:
    """Returns the values that a preset changes.

    Args:
        folder: of the presets, ``NAME.yaml`` each.
        known: their names.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in known:
        raise ConfigError(f"preset {name!r} is unknown; there are {', '.join(known)}")
    tree: dict[str, Any] = yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text("utf-8")) or {}
    return tree


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``base`` with the values of ``top`` laid over it, section by section."""
    both = dict(base)
    for key, value in top.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def override(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Sets values of a tree in place.

    Args:
        overrides: ``section.key=value`` strings; the value is read as YAML.

    Raises:
        ConfigError: one isn't of that form.
    """
    for each in overrides:
        _apply(tree, each)


def parse(kind: type[_Tree], tree: Mapping[str, Any], source: str) -> _Tree:
    """Returns the validated tree; keys that it doesn't name keep their defaults.

    Raises:
        ConfigError: names every wrong key in one line, with the nearest known key.
    """
    try:
        return kind.model_validate(merged(kind().model_dump(mode="json"), tree))
    except ValidationError as error:
        problems = "; ".join(_describe(kind, item) for item in error.errors()[:5])
        raise ConfigError(f"{source}: {problems}") from None


def dump(tree: Section) -> str:
    """Returns YAML text in the order of the tree; reading it back gives an equal tree."""
    stream = io.StringIO()
    values = tree.model_dump(mode="json")
    yaml.safe_dump(
        values, stream, sort_keys=False, allow_unicode=True, width=100, explicit_start=True, explicit_end=True
    )
    return stream.getvalue()


def config_digest(*sections: BaseModel | Mapping[str, Any] | int | str) -> str:
    """Returns a hex digest of the given sections' values, in order."""
    return sha256_json([s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections])


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


def _describe(kind: type[Section], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {location}{did_you_mean(location, _known_keys(kind))}"
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
