"""The command line. Heavy imports wait until a command needs them, so that ``--help`` answers at once."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsynth_core import __version__
from medsynth_core.cli import fleet
from medsynth_core.cli.benchmarks import app as benchmarks
from medsynth_core.cli.options import Overrides, Workspace
from medsynth_core.cli.study import study
from medsynth_core.errors import ConfigError, InputError, MedsynthError
from medsynth_core.storage.atomic import full_disk
from medsynth_core.workspace import stages
from medsynth_core.workspace.repository import ISOLATED

if TYPE_CHECKING:
    from medsynth_core.workspace.doctor import Finding

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Synthesises chest radiographs from anatomy-pathology prompts and publishes versioned datasets.",
)

Preset = Annotated[
    str | None,
    typer.Option("--preset", help="demo, films, h200-small, h200-512 or paper, laid over params.yaml."),
]

_FOR_FILMS = "films"
"""Preset for real films where none is named."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    overrides: Overrides = None,
    preset: Preset = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            metavar="PLACE",
            help="Films and what is known of them (a folder, table, zip, tar or s3://): looked at, and read by runs.",
        ),
    ] = None,
) -> None:
    """Make a workspace: a git and DVC repository for runs and releases."""
    from medsynth_core.workspace.init import init_workspace
    from medsynth_core.workspace.params import configure

    seen: list[str] = []
    if corpus is not None:
        from medsynth_core.cli.corpus import corpus_settings

        seen = corpus_settings(corpus)
        preset = preset or _FOR_FILMS
        print(f"preset {preset}")
    made = init_workspace(folder.resolve(), configure([*seen, *(overrides or ())], preset))
    print(f"{'new workspace' if made else 'already a workspace, left as it is:'} {folder}")


@app.command()
def run(
    workspace: Workspace = Path(),
    overrides: Overrides = None,
    preset: Preset = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add to the newest release: new images, the old ones stay.")
    ] = False,
) -> None:
    """Run the whole flow: reports in, versioned dataset out. Run again after a kill: it goes on."""
    _flow("augment", workspace, overrides, preset, *(["--extend"] if extend else []))


@app.command()
def train(
    workspace: Workspace = Path(),
    overrides: Overrides = None,
    preset: Preset = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from what the last trainings left, though settings or data have changed."),
    ] = False,
) -> None:
    """Run the flow that trains the models."""
    _flow("train", workspace, overrides, preset, *(["--resume"] if resume else []))


def add_stages(to: typer.Typer) -> None:
    """Adds a command a stage."""
    for stage in stages.STAGES:
        to.command(stage.command, help=f"Stage: {stage.help}.")(_SPECIAL.get(stage.name) or _command(stage.name))


def _command(name: str) -> Callable[..., None]:
    def command(workspace: Workspace = Path()) -> None:
        _stage(name, workspace)

    return command


def _corpus(
    workspace: Workspace = Path(),
    update: Annotated[
        bool, typer.Option("--update", help="Read new and changed images only; the others are taken over.")
    ] = False,
) -> None:
    _stage("corpus", workspace, resume=update)


def _prompts(
    workspace: Workspace = Path(),
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be asked for and its cost; ask nothing.")
    ] = False,
) -> None:
    if not plan:
        _stage("prompts", workspace)
        return
    from medsynth_core.cli.tables import plan_tables
    from medsynth_core.prompts import stage
    from medsynth_core.prompts.settings import PromptsParams
    from medsynth_core.workspace.params import load_config

    root = workspace.resolve()
    config = load_config(root / "params.yaml")
    plan_tables(stage.plan(PromptsParams.of(config), stages.workspace_paths(root, config)))


def _utility(workspace: Workspace = Path(), overrides: Overrides = None) -> None:
    from medsynth_core.cli.tables import utility_table
    from medsynth_core.evaluation.utility import read_utility
    from medsynth_core.release.reader import open_release

    root = workspace.resolve()
    _stage("utility", root, overrides or ())
    if found := read_utility(stages.workspace_paths(root)["utility"], open_release(root).name):
        utility_table(found["rows"])


_SPECIAL: dict[str, Callable[..., None]] = {"corpus": _corpus, "prompts": _prompts, "utility": _utility}
"""Commands that do more than run their stage."""
add_stages(app)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="Text file with a report; - reads it from standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how a report is read: sections, sentences, each mention with its status and the words that gave it."""
    from medsynth_core.cli.tables import explained_report
    from medsynth_core.corpus.sections import read_sections
    from medsynth_core.vocabulary.explain import explain as explained

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as text in UTF-8 ({error})") from error
    found = explained(read_sections(text))
    if as_json:
        about = dataclasses.asdict(found) | {"left_out": [each._asdict() for each in found.left_out]}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        explained_report(found)


@app.command()
def record(workspace: Workspace = Path()) -> None:
    """Commit and tag what `dvc repro` released."""
    from medsynth_core.storage.store import open_store
    from medsynth_core.workspace.lock import at_work
    from medsynth_core.workspace.origin import run_record
    from medsynth_core.workspace.params import load_config
    from medsynth_core.workspace.record import record_release

    root = workspace.resolve()
    with at_work(root):
        store = open_store(load_config(root / "params.yaml").store, root)
        print(record_release(root, store, about_run=run_record(None, {})))


config = typer.Typer(no_args_is_help=True, help="Show and change params.yaml.")
app.add_typer(config, name="config")
app.add_typer(study, name="study")


@config.command("set")
def config_set(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE...")] = None,
    preset: Preset = None,
    workspace: Workspace = Path(),
) -> None:
    """Change params.yaml, for all runs to come; what can't be isn't written."""
    from medsynth_core.workspace.lock import at_work
    from medsynth_core.workspace.params import differences, load_config, write_config

    path = workspace.resolve() / "params.yaml"
    with at_work(path.parent):
        kept, wanted = load_config(path), load_config(path, overrides or (), preset)
        write_config(path, wanted)
    for name, value in differences(kept, wanted).items():
        print(f"{name}: {json.dumps(value)}")


@config.command("show")
def config_show(
    keys: Annotated[list[str] | None, typer.Argument(help="Dotted names; all when left out.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Print parameters by their dotted names, defaults included."""
    from medsynth_core.config.dotted import flat
    from medsynth_core.nearest import did_you_mean
    from medsynth_core.workspace.params import load_config

    values = flat(load_config(workspace.resolve() / "params.yaml").model_dump(mode="json"))
    for key in keys or values:
        found = {name: value for name, value in values.items() if name == key or name.startswith(f"{key}.")}
        if not found:
            raise ConfigError(f"there is no parameter {key!r}{did_you_mean(key, values)}")
        for name, value in found.items():
            print(f"{name}: {json.dumps(value)}")


Repo = Annotated[str, typer.Argument(help="Workspace, clone, git URL, store (folder or s3://) or dataset folder.")]
Rev = Annotated[str | None, typer.Option(help="git tag, branch or commit; of a store, the tag.")]


@app.command()
def inspect(repo: Repo = ".", rev: Rev = None) -> None:
    """Show a release: what is in it, what was rejected, where it comes from."""
    from medsynth_core.cli.tables import release_tables
    from medsynth_core.release.reader import open_release

    release_tables(open_release(repo, rev, withdrawn=True))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Tag, branch or commit.")],
    b: Annotated[str | None, typer.Argument(help="The same; the working tree when left out.")] = None,
    repo: Annotated[str, typer.Option(help="Workspace, clone, git URL or store.")] = ".",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what changed from release A to release B: images, objects, labels, settings."""
    from medsynth_core.release.diff import diff as compare
    from medsynth_core.release.reader import open_release

    found = compare(open_release(repo, a, withdrawn=True), open_release(repo, b, withdrawn=True))
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return
    from medsynth_core.cli.tables import diff_tables

    diff_tables(found)


@app.command()
def withdraw(
    tag: Annotated[str, typer.Argument(help="Of the release.")],
    reason: Annotated[str, typer.Option(help="Why; whoever opens the release reads it.")],
    workspace: Workspace = Path(),
) -> None:
    """Take a release back: readers and `run --extend` refuse it from now on; `gc` frees what it alone holds."""
    from medsynth_core.storage.index import read_entry
    from medsynth_core.storage.store import open_store
    from medsynth_core.storage.withdrawn import withdraw as mark
    from medsynth_core.workspace.params import load_config

    if not reason.strip():
        raise InputError("--reason is empty; say why, for those who have used the release")
    root = workspace.resolve()
    store = open_store(load_config(root / "params.yaml").store, root)
    print(mark(store, read_entry(store, tag), reason.strip()))


@app.command()
def verify(
    repo: Repo = ".",
    rev: Rev = None,
    report: Annotated[Path | None, typer.Option(help="Write what was found as JSON here.")] = None,
) -> None:
    """Check a release against its hashes and its accounting; exits with 4 when something is wrong."""
    from medsynth_core.cli.bar import bar
    from medsynth_core.release.verify import verify_at

    with bar("verify") as progress:
        found = verify_at(repo, rev, progress)
    if report is not None:
        report.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n", "utf-8")
    for problem in found.problems:
        print(problem)
    print(f"{found.n_files} files, {found.n_images} images, {len(found.problems)} problems")
    if found.problems:
        raise typer.Exit(4)


@app.command()
def gc(
    workspace: Workspace = Path(),
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Also the records of earlier runs, released or not.")] = False,
    older_than: Annotated[float, typer.Option(help="Hours; younger objects may belong to a run in work.")] = 24.0,
) -> None:
    """List, or delete, what the store holds and no release, DVC file or run needs."""
    from medsynth_core.storage.store import open_store
    from medsynth_core.workspace.garbage import collect_garbage, find_garbage
    from medsynth_core.workspace.params import load_config

    root = workspace.resolve()
    store = open_store(load_config(root / "params.yaml").store, root)
    found = find_garbage(root, store, timedelta(hours=older_than), runs)
    for kind, every in (("object", found.objects), ("upload", found.uploads), ("run", found.runs)):
        for each in every:
            print(f"{kind}  {each.modified:%Y-%m-%d %H:%M}  {each.size:>12}  {each.key}")
    n = len(found.objects) + len(found.uploads) + len(found.runs)
    print(f"{n} of no use, {found.n_bytes} bytes; {found.young} younger than {older_than:g} h left out")
    if delete:
        collect_garbage(store, found)
        print("deleted")


@app.command()
def export(
    repo: Annotated[str, typer.Argument(help="Workspace, clone, git URL, store (folder or s3://) or dataset folder.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    rev: Rev = None,
    layout: Annotated[
        str, typer.Option("--format", help="folder: what Hugging Face datasets loads; dicom: a file an image.")
    ] = "folder",
    metadata: Annotated[str, typer.Option(help="csv or jsonl: the table beside the images.")] = "jsonl",
) -> None:
    """Write a release's images as an image folder or as DICOM, with a table of what was prompted."""
    from medsynth_core.cli.bar import bar
    from medsynth_core.release.export import export as write
    from medsynth_core.release.reader import open_release

    with bar("export") as progress:
        n_images = write(open_release(repo, rev), out, layout, metadata, progress)
    print(f"{n_images} images in {out}")


app.add_typer(benchmarks, name="benchmark")
for command in (fleet.plan, fleet.work, fleet.status):
    app.command()(command)


@app.command()
def doctor(
    workspace: Workspace = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, an object a line.")] = False,
) -> None:
    """Say what this machine and a workspace lack for a run; exits with the code of what would stop it first."""
    from medsynth_core.workspace.doctor import examine

    worst = 0
    for found in examine(workspace.resolve()):
        print(json.dumps(dataclasses.asdict(found)) if as_json else _line_of(found))
        worst = worst or found.exit_code
    raise typer.Exit(worst)


def _line_of(found: Finding) -> str:
    return f"{'FAILS' if found.exit_code else 'ok':5}  {found.name:<10}  {found.text}"


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Runs a command; an error meant for the user is one line and an exit code."""
    try:
        with full_disk():
            app()
    except MedsynthError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _stage(name: str, workspace: Path, overrides: Iterable[str] = (), resume: bool = False) -> None:
    """Runs one stage in a workspace, as dvc.yaml does, and prints its report."""
    from medsynth_core.cli.bar import bar
    from medsynth_core.config.dotted import flat
    from medsynth_core.logs import log_to_stderr
    from medsynth_core.workspace.check import check
    from medsynth_core.workspace.lock import at_work
    from medsynth_core.workspace.params import load_config

    log_to_stderr()
    root = workspace.resolve()
    with at_work(root):
        config = load_config(root / "params.yaml", overrides)
        check(config, root, [name])
        with bar(name) as progress:
            report = stages.run_stage(name, config, root, progress, resume)
    for key, value in flat(report, f"{name}.").items():
        print(f"{key}: {value}")


def _flow(name: str, workspace: Path, overrides: list[str] | None, preset: str | None, *more: str) -> None:
    """Becomes the process of a flow: the core doesn't know its orchestrator, and signals reach the run itself."""
    command = [sys.executable, *ISOLATED, "-m", "flows.launch", name]
    for override in overrides or ():
        command += ["--set", override]
    if preset is not None:
        command += ["--preset", preset]
    command += more
    if not workspace.is_dir():
        raise InputError(f"{workspace}: not a folder; make a workspace with `medsynth init {workspace}`")
    os.chdir(workspace)
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
