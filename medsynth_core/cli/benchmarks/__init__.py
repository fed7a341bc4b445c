"""``medsynth benchmark NAME``: published benchmarks, one a module with ``command`` and ``NAME``; to add one is to
add its file. Heavy imports wait inside the commands."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import typer

app = typer.Typer(no_args_is_help=True, help="Measure images as a published benchmark does.")


@app.callback()
def benchmarks() -> None:
    """Measure images as a published benchmark does."""


for _module in sorted(module.name for module in iter_modules(__path__)):
    _benchmark = import_module(f"{__name__}.{_module}")
    app.command(_benchmark.NAME)(_benchmark.command)
