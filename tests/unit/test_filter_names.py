"""A filter is known in its own module alone: no other one names it, its score, or its reasons."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from medsynth_core.filters import FILTERS

CORE = Path(__file__).parents[2] / "medsynth_core"
ORDINARY = {"labels", "anatomy", "agreement", "noise", "organs", "niqe"}
"""Names of filters that are also those of columns, of organs' masks, or of a metric."""
NAMES = {
    *(each.name for each in FILTERS if each.name not in ORDINARY),
    *(column.name for each in FILTERS for column in each.columns),
    *(reason.name for each in FILTERS for reason in each.reasons),
}
MODULES = {f"medsynth_core.filters.{each.name}" for each in FILTERS}


def named(path: Path) -> Iterator[str]:
    """Yields the filters' names that a module holds as texts or imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            yield f"{path.name}:{node.lineno}: {node.value!r}"
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield f"{path.name}:{node.lineno}: {node.module}"


def test_no_filter_is_named_outside_its_room() -> None:
    outside = [path for path in CORE.rglob("*.py") if (CORE / "filters") not in path.parents]
    outside += [path for folder in ("flows", "tasks") for path in (CORE.parent / folder).rglob("*.py")]
    assert [name for path in outside for name in named(path)] == []
