"""What each part of the method is worth, measured on the phantom, whose truth is known.

    python -m benchmarks.method OUT --seeds 3 --workers 2

For every seed a corpus is drawn and tokeniser and alignment are trained once; each arm then trains its own language
model on them and makes images of the same held-out prompts with the same random numbers. The phantom oracle says
which pathology every image shows, and on which side. Everything is kept in OUT: a run that was stopped goes on, and
one with more seeds adds to it. OUT/method.md has the tables, OUT/method.png the figure.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import PATHOLOGIES, Finding, render_findings
from medsynth_core.evaluation.metrics.frechet import Moments, frechet_distance
from medsynth_core.evaluation.oracle import Oracle, found_table
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.condition import Condition
from medsynth_core.models.naturalness import NaturalnessModel
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.progress import silent
from medsynth_core.prompts.similarity import fold_text
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.vocabulary.labels import SIDES
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import is_fresh, run_stage, workspace_paths

log = logging.getLogger("method")

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SHARED = ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment")
"""Stages that all arms of a seed have in common."""
JUDGE_SEED = 900_001
"""Corpus seed of the judge: a finding classifier trained on phantoms of other patients, and their mined labels."""
REFERENCE_SEED, BOUND_SEED = 910_001, 920_001
"""Seeds of the patients in whom the prompts' findings are drawn: what images are compared with, and the upper bound."""


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        settings: what it changes before its language model is trained.
        trained_as: the arm whose language model it uses.
        reworded: what it makes of the prompts.
    """

    name: str
    settings: tuple[str, ...] = ()
    trained_as: str | None = None
    reworded: Callable[[PromptRow], PromptRow] | None = None


def free_prompt(prompt: PromptRow) -> PromptRow:
    """Returns the prompt as it is written without vocabularies: a class name in a sentence, no anatomy, side or
    severity."""
    names = prompt.condition.pathology
    bare = tuple({"pathology": name, "anatomy": None, "side": "none", "severity": None} for name in names)
    text = f"A chest X-ray of a patient with {' and '.join(names)}." if names else "A chest X-ray of a healthy patient."
    return PromptRow(prompt.prompt_id, text, Condition(bare, prompt.view))


ARMS = (
    Arm("full method"),
    Arm("no keypatches", ("models.llm.keypatches=0",)),
    Arm("random keypatches", ("models.llm.keypatch_choice=random",)),
    Arm("no vocabularies", trained_as="full method", reworded=free_prompt),
    Arm("class labels only", ("models.llm.keypatches=0", "models.llm.condition=labels")),
)
BOUND, PHANTOMS = "phantoms through the VQ-GAN", "phantoms"


def main(
    out: Annotated[Path, typer.Argument(help="Folder for models, images and results.")],
    seeds: Annotated[int, typer.Option(min=2, help="Corpora and trainings; the intervals are over them.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, each on its share of the cores.")] = 2,
    each: Annotated[int, typer.Option(help="Prompts that a pathology leads.")] = 18,
    samples: Annotated[int, typer.Option(help="Images a prompt.")] = 3,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the preset.")] = None,
    preset: Annotated[str, typer.Option()] = "demo",
) -> None:
    """Trains all arms, judges their images and writes tables and figure."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    targets = f"prompts.targets={json.dumps(dict.fromkeys(PATHOLOGIES, each))}"
    base = [*(settings or ()), f"prompts.n={each * len(PATHOLOGIES) + 2 * each}", targets]
    share = partial(_share_cores, max(1, torch.get_num_threads() // workers))
    with ProcessPoolExecutor(workers, get_context("spawn"), share) as pool:
        judging = pool.submit(_prepare, out / "judge", preset, [*base, f"seed={JUDGE_SEED}"], SHARED[:4])
        jobs = {seed: [preset, [*base, f"seed={seed}"]] for seed in range(seeds)}
        preparing = {seed: pool.submit(_prepare, _folder(out, seed), *job, SHARED) for seed, job in jobs.items()}
        making = []
        for seed, prepared in preparing.items():
            prepared.result()
            making += [
                pool.submit(_make, _folder(out, seed), arm, *jobs[seed], samples) for arm in ARMS if not arm.trained_as
            ]
        for made in [judging, *making]:
            made.result()
    judge = _Judge(out / "judge")
    found: dict[str, list[Figures]] = {name: [] for name in (*(arm.name for arm in ARMS), BOUND, PHANTOMS)}
    for seed in range(seeds):
        prompts = [prompt for prompt in _held_out_prompts(workspace_paths(_folder(out, seed))) for _ in range(samples)]
        reference = judge.features(_drawn(prompts, REFERENCE_SEED, judge.size))
        for name, rows in found.items():
            images = _images(_folder(out, seed), name, prompts, judge.size)
            rows.append(judge.figures(images, prompts, reference, samples))
    text = _tables(found)
    (out / "method.md").write_text(text, "utf-8")
    _figure(found, out / "method.png")
    print(text)


def _folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _share_cores(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def _prepare(root: Path, preset: str, settings: list[str], stages: Sequence[str]) -> None:
    """Runs the stages that aren't up to date."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parents[1] / "dvc.yaml", root)
    config = configure(settings, preset)
    for name in stages:
        if not is_fresh(name, config, root):
            log.info("%s %s: %s", root.name, name, run_stage(name, config, root, silent))


def _make(root: Path, arm: Arm, preset: str, settings: list[str], samples: int) -> None:
    """Trains an arm's language model in a folder of its own and makes its images, and those of the arms that use it."""
    folder = root / _slug(arm.name)
    for name in ("data", "models/classifier", "models/judge", "models/vqgan", "models/alignment"):
        link = folder / name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / name).resolve())
    settings = [*settings, *arm.settings]
    _prepare(folder, preset, settings, ("llm",))
    synthesiser = Synthesiser.load(SynthesisParams.of(configure(settings, preset)), workspace_paths(folder))
    prompts = _held_out_prompts(workspace_paths(folder))
    for user in (arm, *(other for other in ARMS if other.trained_as == arm.name)):
        asked = [prompt if user.reworded is None else user.reworded(prompt) for prompt in prompts]
        keypatches = synthesiser.keypatches(asked)
        every = [(index, sample) for index in range(len(asked)) for sample in range(samples)]
        images = synthesiser.images(
            [image_id("method", asked[index].prompt_id, sample) for index, sample in every],
            [asked[index] for index, _ in every],
            [keypatches[index] for index, _ in every],
        )
        np.save(root / f"{_slug(user.name)}.npy", images)
        log.info("%s %s: %d images", root.name, user.name, len(images))


def _held_out_prompts(paths: Paths) -> list[PromptRow]:
    """Returns the prompts whose text is no training report's."""
    reports = {
        fold_text(f"{row['findings']} {row['impression']}")
        for row in Corpus.open(paths["corpus"]).studies("train").to_pylist()
    }
    return [prompt for prompt in read_prompts(paths["prompts"]) if fold_text(prompt.text) not in reports]


def _images(root: Path, name: str, prompts: Sequence[PromptRow], size: int) -> Images:
    """Returns the images of an arm or a bound, one a prompt."""
    if name not in (BOUND, PHANTOMS):
        return np.load(root / f"{_slug(name)}.npy", allow_pickle=False)
    drawn = _drawn(prompts, BOUND_SEED, size)
    if name == PHANTOMS:
        return drawn
    return as_rendered(load_image_tokenizer(workspace_paths(root)["vqgan"]), drawn)


def _drawn(prompts: Sequence[PromptRow], seed: int, size: int) -> Images:
    """Returns phantoms of other patients that show what each prompt asks for."""
    return np.stack(
        [
            render_findings(tuple(_as_drawn(finding) for finding in prompt.findings), seed, index, size)
            for index, prompt in enumerate(prompts)
        ]
    )


def _as_drawn(finding: dict[str, str | None]) -> Finding:
    """Returns a prompt's finding as the phantom draws it; what the prompt leaves open is drawn in the middle."""
    anatomy = finding["anatomy"] or "lung"
    zones = {"upper lobe": "upper", "middle lobe": "middle", "mid lung": "middle", "lower lobe": "lower"}
    side = finding["side"] if finding["side"] in (*SIDES, "bilateral") else "none"
    return Finding(
        str(finding["pathology"]), anatomy, side, finding["severity"] or "moderate", zones.get(anatomy, "lower")
    )  # type: ignore[arg-type]


@dataclass(frozen=True)
class Figures:
    """What one arm of one seed scored.

    Attributes:
        balanced: balanced accuracy of every pathology by the oracle, prompted against not prompted, [pathologies].
        sided: share of found one-sided findings whose stronger sign is on the prompted side.
        recall: share of prompted findings that the judge finds.
        frechet: Fréchet distance of the judge's features to phantoms with the same findings.
        niqe: mean NIQE, fitted on the judge's corpus.
        diversity: one minus the mean MS-SSIM of two images of one prompt.
    """

    balanced: npt.NDArray[np.float64]
    sided: float
    recall: float
    frechet: float
    niqe: float
    diversity: float


class _Judge:
    """Oracle, finding classifier and naturalness model, none of which saw a phantom of any arm."""

    def __init__(self, root: Path) -> None:
        self.oracle = Oracle.fit(JUDGE_SEED, n=6000, epochs=6)
        self.classifier = FindingClassifier.load(workspace_paths(root)["classifier"])
        corpus = Corpus.open(workspace_paths(root)["corpus"])
        self.size = corpus.image_size
        rows = np.asarray(corpus.views("train").column("row"), dtype=np.int64)[:1000]
        self.naturalness = NaturalnessModel.fit(corpus.images(rows))

    def figures(self, images: Images, prompts: Sequence[PromptRow], reference: Floats, samples: int) -> Figures:
        """Returns what images score; ``reference`` is ``features`` of phantoms with the same findings."""
        requested = [[(finding["pathology"], finding["side"]) for finding in prompt.findings] for prompt in prompts]
        rows = found_table(self.oracle, images, requested)
        sided = [row for row in rows if row.n_sided]
        features = self.features(images)
        with torch.inference_mode():
            logits = self.classifier.head[-1](torch.from_numpy(features)).numpy()
        labels = np.array([pathology for pathology, _ in self.classifier.labels])
        seen = np.stack([logits[:, labels == name].max(1) > 0 for name in PATHOLOGIES], 1)
        asked = np.array([[name in prompt.condition.pathology for name in PATHOLOGIES] for prompt in prompts])
        return Figures(
            np.array([row.balanced_accuracy for row in rows]),
            float(np.average([row.side_correct for row in sided], weights=[row.n_sided for row in sided])),
            float(seen[asked].mean()),
            frechet_distance(Moments.of(features), Moments.of(reference)),
            float(self.naturalness.scores(images).mean()),
            _diversity(images, samples),
        )

    @torch.inference_mode()
    def features(self, images: Images) -> Floats:
        """Returns what the classifier's last layer reads, float32 [N, 128]."""
        parts = [
            self.classifier.head[:-1](self.classifier.features(to_inputs(part, torch.device("cpu")))[-1])
            for part in np.array_split(images, len(images) // 128 + 1)
        ]
        features: Floats = torch.cat(parts).numpy()
        return features


def _diversity(images: Images, samples: int) -> float:
    of_prompt = torch.from_numpy(images.astype(np.float32)).view(-1, samples, 1, *images.shape[1:])
    scales = (0.0448, 0.2856, 0.3001)  # the first three of the five, which need 161 pixels; rescaled to sum to one
    betas = tuple(beta / sum(scales) for beta in scales)
    values = [
        float(ms_ssim(of_prompt[:, a], of_prompt[:, b], data_range=255.0, betas=betas))
        for a, b in itertools.combinations(range(samples), 2)
    ]
    return 1.0 - float(np.mean(values))


def _interval(values: Iterable[float]) -> tuple[float, float]:
    """Returns the mean and the half width of its 95 % t-interval."""
    rows = np.array(list(values))
    return float(rows.mean()), float(stats.sem(rows) * stats.t.ppf(0.975, len(rows) - 1))


def _shown(values: Iterable[float]) -> str:
    mean, half = _interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def _tables(found: dict[str, list[Figures]]) -> str:
    full = found[ARMS[0].name]
    lines = [
        f"Means over {len(full)} seeds with 95 % t-intervals.",
        "",
        "| arm | balanced accuracy | full method minus this | side right | recall | FID | NIQE | diversity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        gain = "–"
        if name in [arm.name for arm in ARMS[1:]]:
            gain = _shown(a.balanced.mean() - b.balanced.mean() for a, b in zip(full, rows, strict=True))
        cells = [_shown(row.balanced.mean() for row in rows), gain]
        cells += [_shown(getattr(row, key) for row in rows) for key in ("sided", "recall", "frechet", "niqe")]
        lines.append(f"| {name} | {' | '.join(cells)} | {_shown(row.diversity for row in rows)} |")
    lines += ["", f"| balanced accuracy | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for column, pathology in enumerate(PATHOLOGIES):
        means = [f"{np.mean([row.balanced[column] for row in rows]):.2f}" for rows in found.values()]
        lines.append(f"| {pathology} | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def _figure(found: dict[str, list[Figures]], path: Path) -> None:
    """Draws balanced accuracy and side of every arm, with intervals and a dot a seed."""
    figure = Figure(figsize=(9, 0.5 * len(found) + 1.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(found))[::-1]
    of_row: dict[str, Callable[[Figures], float]] = {
        "balanced accuracy, prompted against not": lambda row: float(row.balanced.mean()),
        "right side, of findings found": lambda row: row.sided,
    }
    for panel, (title, value) in zip(panels, of_row.items(), strict=True):
        for place, (name, rows) in zip(places, found.items(), strict=True):
            mean, half = _interval(map(value, rows))
            colour = "#1f6feb" if name == ARMS[0].name else "#8c959f" if name in (BOUND, PHANTOMS) else "#bf5700"
            panel.errorbar(mean, place, xerr=half, fmt="o", color=colour, capsize=3)
            panel.plot([value(row) for row in rows], [place - 0.22] * len(rows), ".", color=colour, alpha=0.5)
        panel.axvline(0.5, color="#d0d7de", linewidth=1)
        panel.set_title(title, fontsize=9)
        panel.set_yticks(places, list(found), fontsize=8)
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Software": None})


def _slug(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    typer.run(main)
