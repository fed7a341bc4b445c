"""``medsynth study``: films for readers to tell apart, and what their answers say."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsynth_core.cli.options import Workspace

if TYPE_CHECKING:
    from medsynth_core.evaluation.study.tables import ScoreTable

study = typer.Typer(
    invoke_without_command=True, help="Make a page on which readers tell real films from synthetic ones; score answers."
)
_FOLDER = Path("data") / "study"


@study.callback()
def make(
    context: typer.Context,
    workspace: Workspace = Path(),
    out: Annotated[Path | None, typer.Option(help="New folder; data/study in the workspace when left out.")] = None,
    films: Annotated[int, typer.Option(min=1, help="Real films, and as many synthetic ones.")] = 50,
    rev: Annotated[str | None, typer.Option(help="Tag of a release; the workspace's newest when left out.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Another one draws other films; params.yaml's when left out.")
    ] = None,
    permitted: Annotated[
        bool, typer.Option("--i-may-show-real-films", help="The corpus' terms allow to show its films to the readers.")
    ] = False,
    training: Annotated[
        bool, typer.Option("--from-training", help="Fill up with films that the generator learnt from.")
    ] = False,
) -> None:
    """Make a page on which readers tell real films from synthetic ones, and its key."""
    if context.invoked_subcommand is not None:
        return
    from medsynth_core.cli.bar import bar
    from medsynth_core.evaluation.study.make import NOTES, PAGE, Plan, make_study
    from medsynth_core.workspace.lock import at_work
    from medsynth_core.workspace.params import load_config
    from medsynth_core.workspace.stages import workspace_paths

    root = workspace.resolve()
    config = load_config(root / "params.yaml")
    folder = root / _FOLDER if out is None else out
    plan = Plan(films, config.seed if seed is None else seed, secrets.token_hex(16), rev, permitted, training)
    with at_work(root), bar("study") as progress:
        key = make_study(plan, workspace_paths(root, config), folder.resolve(), progress)
    print(f"study {key.study}: {films} real films of {key.corpus}, {films} synthetic ones of {key.release}")
    print(f"send  {folder / PAGE}")
    print(f"keep  {folder / 'key.json'}")
    print(f"read  {folder / NOTES}")


@study.command()
def score(
    key: Annotated[Path, typer.Argument(help="Folder of the study, or its key.json.")],
    answers: Annotated[list[Path], typer.Argument(help="Files that readers saved.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write it as Markdown here.")] = None,
) -> None:
    """Say how well readers told the films apart, and how far they agree with prompts, reports and each other."""
    from medsynth_core.evaluation.study.answers import read_answers
    from medsynth_core.evaluation.study.key import Key
    from medsynth_core.evaluation.study.score import score_study
    from medsynth_core.evaluation.study.tables import as_markdown, score_tables
    from medsynth_core.storage.atomic import write_bytes_atomically

    of = Key.load(key)
    found = score_study(of, read_answers(answers, of))
    tables = score_tables(found)
    if report is not None:
        write_bytes_atomically(report, as_markdown(found, tables).encode())
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2, ensure_ascii=False))
        return
    for table in tables:
        _show(table)


def _show(table: ScoreTable) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    note = Text(table.note) if table.note else None
    shown = Table(title=Text(table.title), caption=note, title_justify="left", caption_justify="left")
    for number, heading in enumerate(table.headings):
        shown.add_column(Text(heading), justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    Console().print(shown)
