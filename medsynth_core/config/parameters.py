"""What a stage is given of params.yaml: a frozen dataclass whose fields are declared by their places in the tree.

    @dataclass(frozen=True)
    class CorpusParams(Params):
        seed: int
        corpus: CorpusConfig
        device: Annotated[Device, Param(changes_output=False)]

A stage that reads what it doesn't declare can't be written: it has no other source of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self, get_type_hints

from pydantic_core import to_jsonable_python

from medsynth_core.config.section import Section


@dataclass(frozen=True)
class Param:
    """Where in the tree a field is, and whether it decides what a stage writes.

    Attributes:
        path: dotted; None: the field's own name.
        changes_output: False for what only decides where or how fast a stage runs.
        but: fields of a section that change no output.
    """

    path: str | None = None
    changes_output: bool = True
    but: tuple[str, ...] = ()


@dataclass(frozen=True)
class Params:
    """Base of all stages' parameters."""

    @classmethod
    def of(cls, tree: Section) -> Self:
        """Returns the values that a validated tree has for the fields."""
        return cls(**{name: _at(tree, path) for name, path, _ in cls._declared()})

    @classmethod
    def places(cls) -> dict[str, str]:
        """Returns the dotted path of each field."""
        return {name: path for name, path, _ in cls._declared()}

    @classmethod
    def paths(cls) -> tuple[str, ...]:
        """Returns the dotted paths that change the output, as dvc.yaml lists them."""
        return tuple(path for path, _, _ in cls._deciding())

    def values(self) -> dict[str, Any]:
        """Returns the values that change the output by their dotted paths, as JSON has them."""
        return {
            path: to_jsonable_python(getattr(self, name) if inner is None else getattr(getattr(self, name), inner))
            for path, name, inner in self._deciding()
        }

    @classmethod
    def _deciding(cls) -> Iterator[tuple[str, str, str | None]]:
        """Yields path, field and, of a section that counts in part, its field."""
        hints = get_type_hints(cls)
        for name, path, param in cls._declared():
            if not param.changes_output:
                continue
            if not param.but:
                yield path, name, None
                continue
            yield from ((f"{path}.{key}", name, key) for key in hints[name].model_fields if key not in param.but)

    @classmethod
    def _declared(cls) -> Iterator[tuple[str, str, Param]]:
        """Yields each field with its path and what is said of it."""
        for name, hint in get_type_hints(cls, include_extras=True).items():
            param = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Param)), Param())
            yield name, param.path or name, param


def _at(tree: Section, path: str) -> Any:
    return reduce(getattr, path.split("."), tree)
