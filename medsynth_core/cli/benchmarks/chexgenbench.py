"""``medsynth benchmark chexgenbench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsynth_core.cli.options import Workspace

if TYPE_CHECKING:
    from rich.console import Console

NAME = "chexgenbench"
_SHOWN = {"fid": "FID", "precision": "prec.", "recall": "recall", "coverage": "cover."}
"""Of the table by pathology, which has room for no more; the files have all."""


def command(
    prompts: Annotated[
        Path | None, typer.Option(metavar="CSV", help="The benchmark's annotations: annotated_prompt, path, labels.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="PLACE", help="Images made of --prompts: prompt_INFO.csv, or their folder.")
    ] = None,
    image_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images of --images are.")] = None,
    make: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Have the workspace's models make images of --prompts here; goes on."),
    ] = None,
    release: Annotated[
        str | None, typer.Option(metavar="REPO", help="Measure a release with its own prompts; the workspace's newest.")
    ] = None,
    rev: Annotated[str | None, typer.Option(help="git tag, branch or commit of the release.")] = None,
    real: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Real images: annotations with path. Default: --prompts.")
    ] = None,
    real_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where their paths begin.")] = None,
    train: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Annotations of training images, for re-identification.")
    ] = None,
    train_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where their paths begin.")] = None,
    privacy_images: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Images made of --train's prompts, ten of each.")
    ] = None,
    rad_dino: Annotated[
        str | None, typer.Option(metavar="NAME[:PLACE]", help="transformers:FOLDER; or another extractor, or none.")
    ] = None,
    inception: Annotated[
        str | None, typer.Option(metavar="NAME[:PLACE]", help="inception:FILE; or another extractor, or none.")
    ] = None,
    biovil_t: Annotated[
        str | None,
        typer.Option(metavar="NAME[:PLACE]", help="biovil-t:FOLDER; transformers:FOLDER, alignment, or none."),
    ] = None,
    reid: Annotated[str | None, typer.Option(metavar="NAME[:PLACE]", help="siamese:FILE; or judge, or none.")] = None,
    stand_ins: Annotated[
        bool, typer.Option("--stand-ins", help="Play what is missing by small networks; the columns say so.")
    ] = False,
    max_prompts: Annotated[int | None, typer.Option(min=2, help="Measure so many prompts at most.")] = None,
    privacy_prompts: Annotated[int, typer.Option(min=1, help="Training prompts at most.")] = 2000,
    name: Annotated[str | None, typer.Option(help="The generator's, in the tables.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the tables. Default: data/chexgenbench.")
    ] = None,
    workspace: Workspace = Path(),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="SECTION.KEY=VALUE", help="Change a parameter for this command."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """CheXGenBench (arXiv:2505.10496): fidelity, alignment, re-identification (docs/how-to/chexgenbench.md)."""
    from medsynth_core.cli.bar import bar
    from medsynth_core.evaluation.chexgenbench.networks import BIOVIL_T, INCEPTION, RAD_DINO, REID, cast
    from medsynth_core.evaluation.chexgenbench.request import Request
    from medsynth_core.evaluation.settings import EvaluationParams
    from medsynth_core.synthesis.settings import SynthesisParams
    from medsynth_core.workspace.params import configure, load_config
    from medsynth_core.workspace.stages import workspace_paths

    request = Request(
        prompts=prompts,
        images=images,
        image_dir=image_dir,
        make=make,
        release=release,
        rev=rev,
        real=real,
        real_dir=real_dir,
        train=train,
        train_dir=train_dir,
        privacy_images=privacy_images,
        networks={RAD_DINO: rad_dino, INCEPTION: inception, BIOVIL_T: biovil_t, REID: reid},
        max_prompts=max_prompts,
        privacy_prompts=privacy_prompts,
        name=name,
    )
    root = workspace.resolve()
    params = root / "params.yaml"
    # images and real ones by their files are measured without a workspace, too
    alone = images is not None and not params.is_file()
    config = configure(overrides or ()) if alone else load_config(params, overrides or ())
    paths = workspace_paths(root, config)
    playing = cast(request.networks, stand_ins, paths)
    if playing.missing:
        sys.stderr.write(f"missing, with stand-ins in their place: {'; '.join(playing.missing)}\n")
    from medsynth_core.evaluation.chexgenbench.run import run

    folder = out or (root / NAME if alone else root / "data" / NAME)
    with bar(NAME) as progress:
        found = run(
            request,
            playing,
            EvaluationParams.of(config),
            SynthesisParams.of(config),
            paths,
            folder,
            progress,
        )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _print(found)
    print(f"tables and benchmark.json in {folder}")


def _print(found: Mapping[str, Any]) -> None:
    """Prints all images' figures, then those by pathology, then what they don't say."""
    from rich.console import Console
    from rich.table import Table

    console, n, figures = Console(), found["n"], found["figures"]
    title = f"{found['name']}: {n['synthetic']} synthetic, {n['real']} real images"
    table = Table(title=title)
    for heading in ("figure", "by", "value", "95 %", "control"):
        table.add_column(heading, no_wrap=heading != "control")
    for row in figures:
        if row["label"] is None:
            interval = "" if row["low"] is None else f"{_number(row['low'])}..{_number(row['high'])}"
            value = _number(row["value"]) or row["reason"]
            control = "" if row["control"] is None else f"{_number(row['control'])} ({row['control_of']})"
            table.add_row(row["metric"], row["network"], value, interval, control)
    console.print(table)
    _by_pathology(console, figures)
    for row in figures:
        if row["label"] is None and row["reason"] and row["value"] is not None:
            console.print(f"{row['metric']} ({row['network']}): {row['reason']}", markup=False)
    for left_out in found["left_out"]:
        console.print(f"left out: {left_out}", markup=False)
    for part, why in found["not_comparable"].items():
        if why:
            console.print(f"{part} not comparable with the board's: {'; '.join(why)}", markup=False)


def _by_pathology(console: Console, figures: Sequence[Mapping[str, Any]]) -> None:
    """Prints a row a pathology that has a figure: of the role of RAD-DINO, and of alignment."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    wanted = [("rad-dino", metric) for metric in _SHOWN] + [("biovil-t", "alignment")]
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in figures:
        if row["label"] is not None and row["value"] is not None:
            found.setdefault(row["label"], {})[row["role"], row["metric"]] = row
    if not found:
        return
    by = dict.fromkeys(row["network"] for of_label in found.values() for key, row in of_label.items() if key in wanted)
    table = Table(title=f"by pathology ({', '.join(by)})", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("pathology", no_wrap=True)
    for heading in ("n, real", *_SHOWN.values(), "align."):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, of_label in sorted(found.items()):
        first = next(iter(of_label.values()))
        cells = (_number(of_label[key]["value"]) if key in of_label else "" for key in wanted)
        table.add_row(label, f"{first['n']}, {first['n_real']}", *cells)
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
