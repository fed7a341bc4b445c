"""Pages of the site that are made from the code, from params.yaml's tree and from files outside docs/.

A hook of mkdocs (mkdocs.yml). Every build makes them anew, so none of them can fall behind what it describes.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "reference/changelog.md",
    "infra/README.md": "how-to/nightly.md",
}
"""Files of the repository that are pages of the site, and where."""


def on_config(config: Any) -> Any:
    """Adds to the navigation what grows by itself: decisions, log entries, and the evidence where there is one."""
    docs = Path(config.docs_dir)
    for section in config.nav:
        for title, pages in section.items():
            if title == "Explanation" and (docs / "evidence.md").is_file():
                pages.append({"Evidence": "evidence.md"})
            for each in pages if isinstance(pages, list) else ():
                if isinstance(each, dict) and "Decisions" in each:
                    each["Decisions"] = _listed(docs, "decisions")
                if isinstance(each, dict) and "Log of experiments" in each:
                    each["Log of experiments"] = _listed(docs, "log")
    return config


def _listed(docs: Path, folder: str) -> list[str]:
    return [path.relative_to(docs).as_posix() for path in sorted((docs / folder).glob("*.md"))]


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    from mkdocs.structure.files import File

    for path, text in _pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def _pages() -> dict[str, str]:
    return {
        "reference/cli.md": _commands(),
        "reference/params.md": _parameters(),
        "reference/manifest.md": _manifest(),
        **{page: _moved(source, page) for source, page in OUTSIDE.items()},
    }


def _moved(source: str, page: str) -> str:
    """Returns a file of the repository as a page: its links lead to pages, and to nothing where there is no page."""
    here = posixpath.dirname(source)

    def link(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        name, _, anchor = target.partition("#")
        if "://" in target or not name:
            return found[0]
        path = posixpath.normpath(posixpath.join(here, name))
        if path in OUTSIDE:
            place = OUTSIDE[path]
        elif path.startswith("docs/") and (ROOT / path).suffix:
            place = path.removeprefix("docs/")
        else:
            return text
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{'#' if anchor else ''}{anchor})"

    text = LINK.sub(link, (ROOT / source).read_text("utf-8"))
    return _linked(text) if source == "CHANGELOG.md" else text


def _commands() -> str:
    os.environ["COLUMNS"] = "100"
    import click
    import typer.cli
    import typer.main

    from medsynth_core.cli.main import app

    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=click.Context(command, info_name="medsynth"), name="medsynth")
    text = re.sub(r"^#+ `?([^`\n]+)`?$", _heading, text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # cut short, and each has its heading
    return f"# Command line\n\n`medsynth COMMAND --help` prints the same.\n\n{text}"


def _heading(found: re.Match[str]) -> str:
    return f"{'##' if found[1].count(' ') < 2 else '###'} {found[1]}"


def _parameters() -> str:
    from medsynth_core.workspace.tree import Config

    presets = ROOT / "medsynth_core" / "workspace" / "presets"
    return "\n".join(
        [
            "# params.yaml",
            "",
            "The only configuration of a workspace. It is validated whole before any work; an unknown key is an error "
            "that names the nearest known one. `medsynth config set SECTION.KEY=VALUE` changes it for all runs, "
            "`medsynth run --set SECTION.KEY=VALUE` for one. Secrets have no key: they come from the environment.",
            "",
            *_section("", Config, Config().model_dump(mode="json")),
            "## Presets",
            "",
            "`medsynth init DIR --preset NAME` lays one of these over the defaults.",
            "",
            *(line for path in sorted(presets.glob("*.yaml")) for line in _preset(path)),
        ]
    )


def _preset(path: Path) -> list[str]:
    return [f"### {path.stem}", "", "```yaml", path.read_text("utf-8").strip(), "```", ""]


def _section(name: str, model: type[BaseModel], values: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a section: what it is for, its keys, then the sections in it."""
    if name:
        yield from (f"{'##' if '.' not in name else '###'} {name}", "", _line(inspect.getdoc(model)), "")
    inner = {key: field for key, field in model.model_fields.items() if _is_section(field.annotation)}
    keys = {key: field for key, field in model.model_fields.items() if key not in inner}
    if keys:
        yield from ("| key | type | default | meaning |", "|---|---|---|---|")
        for key, field in keys.items():
            cells = (f"`{key}`", _type(field), f"`{_default(values[key])}`", _line(field.description))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""
    for key, field in inner.items():
        yield from _section(f"{name}.{key}".lstrip("."), typing.cast("type[BaseModel]", field.annotation), values[key])


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(limit, name, None) is not None
    ]
    return f"{_kind(field.annotation)}{', ' if limits else ''}{', '.join(limits)}"


def _kind(kind: Any) -> str:
    """Returns a type in the words of params.yaml."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(each) for each in inner)
    if origin in (list, tuple, set, frozenset):
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"{_kind(inner[0])} to {_kind(inner[1])}"
    words = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _default(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _manifest() -> str:
    from medsynth_core.manifest import MAY_BE_NULL, SCHEMA, SCHEMA_VERSION

    rows = [
        f"| `{field.name}` | `{field.type}` | {'yes' if field.name in MAY_BE_NULL else ''} "
        f"| {_line(field.metadata[b'description'].decode()).replace('|', chr(92) + '|')} |"
        for field in SCHEMA
    ]
    return "\n".join(
        [
            "# Manifest columns",
            "",
            f"One row for each image, in Parquet; version {SCHEMA_VERSION} of the schema. New versions only add "
            "columns. A score column is null where its filter isn't enabled or wasn't asked. The reader adds the "
            "column `release`, which isn't stored ([decision 0003](../decisions/0003-release-column.md)).",
            "",
            "| column | type | may be null | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _line(text: str | None) -> str:
    """Returns a docstring in one line of Markdown, with links to the pages that it names."""
    return _linked(" ".join((text or "").split()).replace("``", "`"))


def _linked(text: str) -> str:
    """Returns text of a page in reference/ with links in place of the files of pages."""
    return re.sub(r"(?<![\w(/])docs/([\w/-]+)\.md\b", r"[\1](../\1.md)", text)
