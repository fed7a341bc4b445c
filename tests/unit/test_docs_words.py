"""What the pages say of commands, options, parameters and files exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from medsynth_core.cli.main import app
from medsynth_core.config.dotted import flat
from medsynth_core.workspace.tree import Config

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
HISTORY = {"log", "decisions"}
"""What was so at its time stays as it was written."""
PAGES = [
    REPOSITORY / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if not HISTORY & set(page.relative_to(DOCS).parts)),
]
ROOT = typer.main.get_command(app)
KEYS = set(flat(Config().model_dump(mode="json")))
SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}
BUILT = re.compile(r"brightness|short_notes|FILTER")
"""Parts of names that the pages on extending add, or that stand for any."""


def told(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def shell_lines(page: Path) -> Iterator[str]:
    """Yields the commands of the page's shell blocks; a line that ends with a backslash goes on."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Returns the command that the words name, and the words after it."""
    command: Any = ROOT
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def exists(key: str) -> bool:
    """Whether it is a parameter or a section of some; a key of a table that users fill is one."""
    return any(known == key or known.startswith(f"{key}.") or key.startswith(f"{known}.") for known in KEYS)


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_commands_options_and_parameters_exist(page: Path) -> None:
    for line in shell_lines(page):
        if not line.startswith("medsynth "):
            continue
        command, words = command_of(shlex.split(line, comments=True)[1:])
        assert command is not ROOT, line
        known = {name for each in command.params for name in each.opts}
        assert {word.split("=")[0] for word in words if word.startswith("-") and len(word) > 1} <= known, line
        for word in words:
            if (found := re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)+)=.*", word)) is not None:
                assert exists(found[1]), line


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_parameters_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for section, rest in re.findall(r"`([a-z]+)\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)(?=[`:=])", text):
        key = f"{section}.{rest}"
        if section in SECTIONS and not BUILT.search(key) and not re.search(r"\.(py|json|yaml|md|html|csv|png)$", key):
            assert exists(key), f"{told(page)}: {key}"


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_modules_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for module in re.findall(r"python -m ((?:benchmarks|flows)\.\w+)", text):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file(), f"{told(page)}: {module}"
    for path in re.findall(r"`(tests/\w[\w/]*\.py)`", text):
        assert (REPOSITORY / path).is_file(), f"{told(page)}: {path}"
