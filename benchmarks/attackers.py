"""Do the privacy stage's attackers catch a generator that memorised its films, and let one pass that knows nobody?

    python -m benchmarks.attackers WORK [--films FILMS] [--source nih --source ...] [--members 50] [--draws 20]

A workspace is made in WORK whose generator learns from 50 films, long enough to know them by heart; the labelling judge
and the re-identification network learn from other patients. Three things are then measured, of each attacker:

- memorised: what that generator's images give away of the 50, beside held-out films: when it is asked with prompts, as
  the privacy stage sees it; when it is asked with the 50 reports;
- planted: the same of the 50 films themselves, changed a little and passed through the tokenizer, in place of its
  images;
- exchangeable: real held-out films in the place of all sides, drawn anew several times, by patient: an AUC of 0.5 is
  right, and 95 % of the intervals should hold it.

WORK/attackers.json has what they find.

Films are phantoms, or FILMS: a folder with a table studies.csv, whose columns image, patient, view, findings and source
are read, and the films in images/. Nothing of them leaves WORK.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.prepared import prepared
from medsynth_core.config import Paths
from medsynth_core.config.entries import open_entry
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.stage import split_of
from medsynth_core.filters.thumbnails import Images
from medsynth_core.judging.measured import read_measured
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.pixels import to_images, to_inputs
from medsynth_core.models.rendering import as_rendered, rendered
from medsynth_core.privacy.attackers.likelihood import likelihoods
from medsynth_core.privacy.membership import Attacked, membership_figures, patients_at
from medsynth_core.privacy.risk import RiskFigure
from medsynth_core.privacy.settings import ATTACKERS, PrivacyParams
from medsynth_core.privacy.sides import Sides
from medsynth_core.privacy.space import Space
from medsynth_core.progress import silent
from medsynth_core.random import stream
from medsynth_core.training.examples import Examples
from medsynth_core.training.jitter import DRAWS, jittered
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.stages import is_fresh, run_stage, workspace_paths
from medsynth_core.workspace.tree import Config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=120)

SIDE, ASKED = 64, 4
SPACES = ("pixels", "judge", "reidentification")
JUDGED, HELD_OUT = 0.4, 0.6
"""Shares of the films that aren't the generator's: the judge's; of the rest, those that no attacker has."""
Change = Callable[[Images, np.random.Generator], Images]
Figures = dict[str, RiskFigure]


@app.command()
def main(
    work: Annotated[Path, typer.Argument(help="A new folder, or one of an earlier run.", file_okay=False)],
    films: Annotated[Path | None, typer.Option(help="A folder with studies.csv and images/.", exists=True)] = None,
    source: Annotated[list[str] | None, typer.Option(help="Of the table's sources only these.")] = None,
    n: Annotated[int, typer.Option(help="Phantoms, or films at most.")] = 1600,
    members: Annotated[int, typer.Option(help="Films that the generator learns.", min=20)] = 50,
    draws: Annotated[int, typer.Option(help="Exchangeable sets.", min=2)] = 20,
    steps: Annotated[int, typer.Option(help="Steps of the language model's training.")] = 800,
    seed: int = 0,
) -> None:
    """Prints for each attacker AUC and share found at 1 % of false alarms, with intervals over patients."""
    table = work / "films" / "studies.csv"
    if not table.is_file():
        chosen = list(phantoms(work / "films", n, seed) if films is None else read(films, source, n, seed))
        write_table(table, chosen, members, seed)
    images = (work / "films" if films is None else films / "images").resolve()
    settings = [f"seed={seed}", f"corpus.path={table.resolve()}", f"corpus.images={images}", *SETTINGS]
    settings.append(f"models.llm.train.steps={steps}")
    settings += [f"models.llm.train.checkpoint_every={steps}"]  # else what was kept would be what memorised least
    root, config = prepared(work / "workspace", settings)
    for stage in ("synthesis", "deduplicate", "privacy"):
        if not is_fresh(stage, config, root):
            run_stage(stage, config, root, silent)
    found = measured(root, config)
    sides = sides_of(config, workspace_paths(root, config))
    console.print(
        f"{len(sides.training)} training films of {len(set(sides.training.patients))} patients, "
        f"{len(sides.held_out)} held-out of {len(set(sides.held_out.patients))}, the attacker's own "
        f"{len(sides.reference)} of {len(set(sides.reference.patients))}"
    )
    asked = asked_figures(sides, seed)
    console.print(table_of("asked with their reports", {f"{ASKED} images each": asked}))
    planted = {change: planted_figures(sides, change, seed) for change in CHANGES}
    console.print(table_of("planted", planted))
    exchangeable = exchangeable_figures(sides, draws, seed)
    console.print(exchangeable_table(exchangeable))
    about = {
        "asked": {name: _area(figures) for name, figures in asked.items()} | {"likelihood": _of_models(found)},
        "planted": {change: {name: _area(figures) for name, figures in of.items()} for change, of in planted.items()},
        "exchangeable": {
            name: {
                "mean": float(np.mean([area.value for area, _ in areas])),
                "hold": sum(holds(area) for area, _ in areas),
                "draws": len(areas),
            }
            for name, areas in exchangeable.items()
        },
    }
    (work / "attackers.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def _area(figures: Figures) -> float:
    """Returns the AUC of the better of an attack's two attackers."""
    return max(float(figures[f"membership_auc{suffix}"].value or 0) for suffix in ("", "_relative"))


def _of_models(found: Figures) -> float:
    """Returns the same of the attack on the models."""
    return max(float(figure.value or 0) for name, figure in found.items() if name.startswith("likelihood_auc"))


SETTINGS = (
    "corpus.kind=table",
    "corpus.columns.image=image",
    "corpus.columns.patient=patient",
    "corpus.columns.view=view",
    "corpus.columns.findings=findings",
    "corpus.columns.text=text",
    "corpus.columns.split=split",
    "corpus.labels=both",
    "corpus.suspect=ignore",
    "corpus.judge_fraction=0.9",
    "corpus.val_fraction=0",
    "corpus.test_fraction=0",
    f"corpus.image_size={SIDE}",
    "vocabulary.min_studies=3",
    "prompts.n=40",
    "models.classifier.train.steps=30",
    "models.judge.train.steps=200",
    "models.vqgan.train.steps=200",
    "models.vqgan.adversarial_start=150",
    "models.vqgan.train.checkpoint_every=200",
    "models.alignment.codebook_min_patients=2",
    "models.alignment.train.steps=60",
    "models.alignment.train.batch_size=16",
    "quality.enabled=[degenerate]",
    "synthesis.samples_per_prompt=4",
    "privacy.attackers=[pixels, judge, reidentification, likelihood]",
    "privacy.min_images=20",
)


@dataclass(frozen=True)
class Film:
    """A row of the table."""

    image: str
    patient: str
    view: str
    findings: str
    text: str


def phantoms(folder: Path, n: int, seed: int) -> Iterator[Film]:
    """Draws phantoms into a folder and yields their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        study = phantom_study(seed, index, SIDE)
        name = f"{study.study_id}.png"
        Image.fromarray(study.views[0].load()).save(folder / name)
        yield Film(name, study.patient_id, "PA", "", f"{study.findings} {study.impression}")


def read(folder: Path, sources: Sequence[str] | None, n: int, seed: int) -> list[Film]:
    """Returns films of a folder, of some sources, at most ``n`` and then at random."""
    with (folder / "studies.csv").open(newline="", encoding="utf-8") as stream_:
        rows = [row for row in csv.DictReader(stream_) if not sources or row["source"] in sources]
    order = stream(seed, "benchmark.films").permutation(len(rows))[:n].tolist()
    return [
        Film(row["image"], row["patient"], row["view"], row["findings"], _said(row))
        for row in (rows[place] for place in order)
    ]


def _said(row: dict[str, Any]) -> str:
    return f"{row['view'] or 'Frontal'} chest radiograph. {row['findings'].replace(';', ', ')}."


def write_table(path: Path, films: Sequence[Film], members: int, seed: int) -> None:
    """Writes the table, with the split of each patient: ``members`` films to learn from, others for the judge, for the
    attacker and to be held out. Of training patients the corpus stage gives some to the judge, by a hash: the generator
    has those whom it doesn't."""
    of_patient: dict[str, list[Film]] = defaultdict(list)
    for film in films:
        of_patient[film.patient].append(film)
    config = CorpusConfig(judge_fraction=0.9, val_fraction=0, test_fraction=0)
    draw = stream(seed, "benchmark.splits")
    left, split = members, dict[str, str]()
    patients = sorted(of_patient)
    for place in draw.permutation(len(patients)).tolist():
        patient = patients[place]
        if split_of(patient, seed, config, "train", {"val", "test"}) == "train":
            takes = len(of_patient[patient]) <= left
            left -= takes * len(of_patient[patient])
            split[patient] = "train" if takes else "test"
        elif draw.random() < JUDGED:
            split[patient] = "train"
        else:
            split[patient] = "test" if draw.random() < HELD_OUT else "val"
    if left:
        raise typer.BadParameter(f"{members - left} films of patients who can be learnt from, fewer than {members}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream_:
        writer = csv.writer(stream_)
        writer.writerow(["image", "patient", "view", "findings", "text", "split"])
        for film in films:
            writer.writerow([film.image, film.patient, film.view, film.findings, film.text, split[film.patient]])


def measured(root: Path, config: Config) -> Figures:
    """Prints what the privacy stage says of the generator's images, and returns it by metric."""
    paths = workspace_paths(root, config)
    found = read_measured("privacy", paths["privacy"], paths.digests.file(paths["deduplicate"] / "shards.json"))
    table = Table(
        "memorised", "figure", "value", "95 % interval", "copying nobody", title=f"{found['n_synthetic']} images"
    )
    for row in found["figures"]:
        if row["value"] is None:
            table.add_row(row["space"], row["metric"], "-", row["reason"], "")
        else:
            between = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(row["space"], row["metric"], f"{row['value']:.3f}", between, f"{row['real']:.3f}")
    console.print(table)
    return _by_metric(RiskFigure(**row) for row in found["figures"])


def sides_of(config: Config, paths: Paths) -> Sides:
    """Returns the sides of a workspace; in place of synthetic images, of which none is needed, one that is black."""
    codebook = VisualCodebook.load(paths["alignment"] / "codebook")
    side = Corpus.open(paths["corpus"]).image_size
    black = np.zeros((1, side, side), dtype=np.uint8)
    return Sides.read(PrivacyParams.of(config), paths, black, codebook, silent)


def _noisy(images_u8: Images, draw: np.random.Generator) -> Images:
    noisy = images_u8 + draw.normal(0, 8, images_u8.shape)
    return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def _exposed(images_u8: Images, draw: np.random.Generator) -> Images:
    gamma = np.exp(draw.uniform(-0.2, 0.2, (len(images_u8), 1, 1)))
    return np.rint(255 * (images_u8 / 255) ** gamma).astype(np.uint8)


def _shifted(images_u8: Images, draw: np.random.Generator) -> Images:
    return np.roll(np.pad(images_u8, ((0, 0), (2, 2), (2, 2)), mode="edge"), (2, -2), (1, 2))[:, 2:-2, 2:-2]


def _cropped(images_u8: Images, draw: np.random.Generator) -> Images:
    side = images_u8.shape[1]
    rim = side // 20
    cut = images_u8[:, rim:-rim, rim:-rim]
    resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in cut]
    return np.stack([np.asarray(image) for image in resized])


def _jittered(images_u8: Images, draw: np.random.Generator) -> Images:
    pixels = to_inputs(images_u8, torch.device("cpu"))
    return to_images(jittered(pixels, draw.random((len(images_u8), DRAWS)), 1.0))


def _same(images_u8: Images, draw: np.random.Generator) -> Images:
    return images_u8


def _mirrored(images_u8: Images, draw: np.random.Generator) -> Images:
    return np.ascontiguousarray(images_u8[:, :, ::-1])


CHANGES: dict[str, Change] = {
    "as they are": _same,
    "noise of 8 grey levels": _noisy,
    "gamma 0.82 to 1.22": _exposed,
    "shifted by 2 pixels each way": _shifted,
    "cropped to 90 %": _cropped,
    "as in training with jitter": _jittered,
    "mirrored": _mirrored,
}


def table_of(title: str, rows: dict[str, dict[str, Figures]]) -> Table:
    """Returns a table of what the attackers with a space find."""
    table = Table(title, *(f"{name}: AUC, at 1 %" for name in SPACES))
    for name, found in rows.items():
        table.add_row(name, *(_written(figures) for figures in found.values()))
    return table


def asked_figures(sides: Sides, seed: int, attackers: Sequence[str] = SPACES) -> dict[str, Figures]:
    """Returns the figures by attacker and metric where the generator is asked with the reports of its training films,
    which is how memorised images are extracted (N. Carlini et al., USENIX Security 2023)."""
    model = ImageLanguageModel.load(sides.paths["llm"]).to(sides.device)
    phrasing = Phrasing(Vocabulary.load(sides.paths["vocabulary"] / "vocabulary.json"))
    examples = Examples(
        sides.training.pairs, sides.image_tokenizer, sides.alignment, sides.codebook, model.config, phrasing
    )
    prefixes = [examples.prefix(model, place) for place in range(len(examples))]
    draw = stream(seed, "benchmark.asked")
    codes = [
        model.draw(prefixes, torch.from_numpy(draw.random((len(prefixes), model.layout.tokens), dtype=np.float32)))
        for _ in range(ASKED)
    ]
    images = np.concatenate(list(rendered(sides.image_tokenizer, torch.cat(codes))))
    return _figures(replace(sides, synthetic=images), attackers)


def planted_figures(sides: Sides, change: str, seed: int, attackers: Sequence[str] = SPACES) -> dict[str, Figures]:
    """Returns the figures by attacker and metric where training films are released, changed and passed through the
    tokenizer."""
    originals = sides.training.pairs.images(0, len(sides.training))
    changed = CHANGES[change](originals, stream(seed, "benchmark.planted", change))
    return _figures(replace(sides, synthetic=as_rendered(sides.image_tokenizer, changed)), attackers)


def _figures(sides: Sides, attackers: Sequence[str]) -> dict[str, Figures]:
    return {name: _by_metric(open_entry(ATTACKERS, name, sides).figures) for name in attackers}


def _by_metric(figures: Iterable[RiskFigure]) -> Figures:
    return {figure.metric: figure for figure in figures}


def _written(figures: Figures) -> str:
    """Returns the AUC of the better of an attack's two attackers with its interval, and what it finds at 1 %."""
    best = max(("", "_relative"), key=lambda suffix: figures[f"membership_auc{suffix}"].value or 0)
    area, found = (figures[f"membership_{metric}{best}"] for metric in ("auc", "tpr"))
    return f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f}), {found.value:.2f}"


def exchangeable_table(found: dict[str, list[tuple[RiskFigure, RiskFigure]]]) -> Table:
    """Returns what each attacker finds where nobody was learnt from: all sides are held-out films."""
    table = Table("exchangeable", "mean AUC of draws", "least, most", "intervals that hold 0.5", "at 1 %")
    for name, areas in found.items():
        values = np.array([area.value for area, _ in areas])
        table.add_row(
            name,
            f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}",
            f"{values.min():.3f}, {values.max():.3f}",
            f"{sum(holds(area) for area, _ in areas)} of {len(areas)}",
            f"{np.mean([rate.value for _, rate in areas]):.3f}",
        )
    return table


def holds(area: RiskFigure) -> bool:
    """Returns whether an AUC's interval has a guess in it."""
    assert area.low is not None
    assert area.high is not None
    return area.low <= 0.5 <= area.high


def exchangeable_figures(
    sides: Sides, draws: int, seed: int, attackers: Sequence[str] = SPACES
) -> dict[str, list[tuple[RiskFigure, RiskFigure]]]:
    """Returns AUC and share found at 1 % by attacker, a pair a draw, where the films that no model learnt from are
    mixed, patient by patient, and take the place of all sides."""
    patients = [*sides.held_out.patients, *sides.reference.patients]
    sets = [_mixed(patients, stream(seed, "benchmark.exchangeable", number)) for number in range(draws)]
    found: dict[str, list[tuple[RiskFigure, RiskFigure]]] = defaultdict(list)

    def keep(name: str, attack: str, figures: Figures) -> None:
        for suffix in ("", "_relative"):
            found[f"{name}{suffix}"].append((figures[f"{attack}_auc{suffix}"], figures[f"{attack}_tpr{suffix}"]))

    for name in attackers:
        space = open_entry(ATTACKERS, name, sides).space
        films = np.concatenate([space.held_out, space.reference])
        for places in sets:
            keep(name, "membership", _by_metric(membership_figures(_drawn(space, films, patients, places), seed)))
    model = ImageLanguageModel.load(sides.paths["llm"]).to(sides.device)
    both = [likelihoods(model, sides, films.pairs) for films in (sides.held_out, sides.reference)]
    given, alone = (np.concatenate([getattr(each, name) for each in both]) for name in ("given", "alone"))
    for number, (_, members, others, _) in enumerate(sets):
        groups = patients_at(patients, members), patients_at(patients, others)
        attacked = Attacked(*groups, stream(seed, "benchmark.likelihood", number))
        figures = [
            figure
            for suffix, scores in (("", -given), ("_relative", alone - given))
            for figure in attacked.figures("likelihood", suffix, ("models", 0, 0), scores[members], scores[others])
        ]
        keep("likelihood", "likelihood", _by_metric(figures))
    return found


def _mixed(patients: Sequence[str], draw: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Returns the places of four sets of films with as many patients each: what is released, members, others, and the
    attacker's own."""
    names = np.unique(patients)
    part = dict(zip(draw.permutation(names).tolist(), np.arange(len(names)) % 4, strict=True))
    of_film = np.array([part[patient] for patient in patients])
    return [np.flatnonzero(of_film == number) for number in range(4)]


def _drawn(
    space: Space, films_NF: npt.NDArray[Any], patients: Sequence[str], places: Sequence[npt.NDArray[np.int64]]
) -> Space:
    sides = [films_NF[each] for each in places]
    return Space(space.name, space.metric, *sides, *(patients_at(patients, each) for each in places[1:3]))


if __name__ == "__main__":
    app()
