"""medsynth beside its rivals: equal data, equal seconds of training, equal seconds of sampling, as many tries.

    python -m benchmarks.rivals OUT --seeds 3
    python -m benchmarks.rivals OUT --seeds 3 --preset films --set corpus.kind=table --set corpus.path=... (a corpus)

For every seed a corpus is split and tokenizer and alignment are trained once; all models stand on them:

- *medsynth*: the language model with keypatches; *no keypatches*, LLM-CXR's kind; *class labels only*;
- *latent diffusion*, RoentGen's kind: a UNet over the same tokenizer's latents that reads the same text by the same
  text encoder (benchmarks/latent_diffusion.py), trained for the processor's seconds that medsynth's language model
  took; sampled in as few steps as medsynth's seconds an image allow, and again in 50, however long that takes;
- *nearest neighbour*: a training film whose findings come nearest to the prompt's, returned as it is: what figures must
  punish;
- *real*: films of patients whom no model has seen, with the findings that come nearest to the prompt's; phantoms of
  them, where the corpus is drawn.

Each generator is tuned by three values of guidance on prompts of their own, by what the labelling judge finds and by
precision and recall; diffusion's rate and width have three tries besides, on the first seed. No filter is asked.
Figures are means over seeds with 95 % t-intervals. Everything is kept in OUT: a run that was stopped goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.latent_diffusion import LatentDiffusion
from benchmarks.method import BOUND_SEED, JUDGE_SEED, _drawn, _interval, _prepare, _slug
from medsynth_core.errors import RiskError
from medsynth_core.evaluation.extractors.judge import open_extractor
from medsynth_core.evaluation.judged import Judged, judged_figures
from medsynth_core.evaluation.judges.judge import open_judge
from medsynth_core.evaluation.metrics.frechet import Moments, frechet_distance
from medsynth_core.evaluation.metrics.kernel import kernel_distance
from medsynth_core.evaluation.oracle import Oracle, found_table
from medsynth_core.fidelity.neighbours import neighbourhoods
from medsynth_core.filters.thumbnails import thumbnails
from medsynth_core.models.condition import Condition
from medsynth_core.models.rendering import as_rendered
from medsynth_core.models.settings import LLMConfig
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.privacy.attackers.pixels import coordinates
from medsynth_core.privacy.membership import membership_figures
from medsynth_core.privacy.risk import keep_limits
from medsynth_core.privacy.settings import RiskLimits
from medsynth_core.privacy.space import Space, distance_figures
from medsynth_core.random import stream
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.training.loop import _multiplies_bf16
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.vocabulary.labels import pathology_labels
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import workspace_paths

log = logging.getLogger("rivals")

Images = npt.NDArray[np.uint8]
SHARED = ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "calibrate")
GUIDANCES = (1.0, 2.0, 3.0)
DIFFUSIONS = ((32, 1e-3), (64, 1e-3), (96, 5e-4))
"""Width and rate of what is tried of diffusion."""
MEDSYNTH, DIFFUSION, AT_LEISURE = "medsynth", "latent diffusion", "latent diffusion, 50 steps"
NEAREST, REAL = "nearest neighbour", "real"
LANGUAGE = {
    MEDSYNTH: (),
    "no keypatches": ("models.llm.keypatches=0",),
    "class labels only": ("models.llm.keypatches=0", "models.llm.condition=labels"),
}
_TUNED_ON = 0.25
"""Share of the prompts that guidance is chosen on."""
_SOLVER_STEPS = (8, 50)
"""Fewest and most of diffusion's."""
_K = 5
_KID = (50, 1000)


@dataclass(frozen=True)
class Figures:
    """What one contestant of one seed got.

    Attributes:
        found: prompted findings: the oracle's balanced accuracy on phantoms, else the judge's AUROC; mean.
        sided: share of found one-sided findings on the prompted side; of phantoms.
        refused: what ``medsynth release`` would refuse to publish it for, "" for nothing.
        training, sampling: seconds of the processor, in all and an image.
    """

    found: float
    sided: float | None
    fid: float | None
    kid: float
    precision: float
    recall: float
    density: float
    coverage: float
    membership_auc: float
    refused: str
    guidance: float | None
    training: float
    sampling: float
    parameters: float


COLUMNS: dict[str, Callable[[Figures], float | None]] = {
    "prompted findings": lambda f: f.found,
    "right side": lambda f: f.sided,
    "FID": lambda f: f.fid,
    "KID x 1000": lambda f: 1000 * f.kid,
    "precision": lambda f: f.precision,
    "recall": lambda f: f.recall,
    "coverage": lambda f: f.coverage,
    "membership AUC": lambda f: f.membership_auc,
}


def main(
    out: Annotated[Path, typer.Argument(help="Folder for models, images and results.")],
    seeds: Annotated[int, typer.Option(min=1, help="Splits and trainings; intervals are over them.")] = 3,
    samples: Annotated[int, typer.Option(help="Images a prompt.")] = 3,
    prompts: Annotated[int, typer.Option(help="Prompts, of which a quarter is for tuning.")] = 240,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the preset.")] = None,
    preset: Annotated[str, typer.Option()] = "demo",
) -> None:
    """Trains all contestants, judges their images and writes OUT/rivals.md and OUT/rivals.json."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Figures]] = {}
    for seed in range(seeds):
        base = [*(settings or ()), f"prompts.n={prompts}", f"seed={seed}"]
        for name, figures in _of_seed(out, seed, preset, base, samples).items():
            found.setdefault(name, []).append(figures)
        rows = {name: [asdict(each) for each in of_seeds] for name, of_seeds in found.items()}
        (out / "rivals.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        (out / "rivals.md").write_text(table(found), "utf-8")
    print(table(found))


def _of_seed(out: Path, seed: int, preset: str, settings: list[str], samples: int) -> dict[str, Figures]:
    root = out / f"seed-{seed}"
    _prepare(root, preset, settings, SHARED)
    judge = _Judge(root, out)
    every = read_prompts(workspace_paths(root)["prompts"])
    order = stream(seed, "rivals.prompts").permutation(len(every)).tolist()
    n = round(_TUNED_ON * len(every))
    tuning, asked = ([every[place] for place in places for _ in range(samples)] for places in (order[:n], order[n:]))
    found = {}
    for name, more in LANGUAGE.items():
        found[name] = _judged(_Language(root, name, preset, [*settings, *more]), judge, tuning, asked)
    own, language = found[MEDSYNTH], configure(settings, preset).models.llm
    diffusion = _Diffusion(root, out, seed, own.training, own.sampling, language)
    diffusion.tune(judge, tuning)
    real = _Drawn(root, judge.size) if judge.drawn else _Retrieval(root, REAL, "val", seed)
    for contestant in (diffusion, _AtLeisure(diffusion), _Retrieval(root, NEAREST, "train", seed), real):
        found[contestant.name] = _judged(contestant, judge, tuning, asked)
    return found


class _Contestant:
    """A generator.

    Attributes:
        guidances: that are tried; none where there is nothing to tune.
        training: seconds of the processor.
    """

    name: str
    guidances: tuple[float, ...] = ()
    training: float = 0.0
    parameters: float = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        """Returns an image a prompt, uint8 [N, H, W]."""
        raise NotImplementedError


class _Language(_Contestant):
    """medsynth's language model, with or without a part of it."""

    guidances = GUIDANCES

    def __init__(self, root: Path, name: str, preset: str, settings: list[str]) -> None:
        super().__init__(root / _slug(name))
        self.name = name
        self._preset, self._settings = preset, settings
        for shared in ("data", *(f"models/{each}" for each in ("classifier", "judge", "vqgan", "alignment"))):
            link = self.root / shared
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((root / shared).resolve())
        noted = self.root / "training.json"
        if not noted.exists():
            began = time.process_time()
            _prepare(self.root, preset, settings, ("llm",))
            noted.write_text(json.dumps(time.process_time() - began), "utf-8")
        self.training = float(json.loads(noted.read_text("utf-8")))

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        config = configure([*self._settings, f"synthesis.guidance={guidance}"], self._preset)
        made = Synthesiser.load(SynthesisParams.of(config), workspace_paths(self.root))
        self.parameters = float(sum(each.numel() for each in made.llm.parameters()))
        ids = [image_id("rivals", prompt.prompt_id, place) for place, prompt in enumerate(prompts)]
        return made.images(ids, prompts, made.keypatches(prompts))


class _Diffusion(_Contestant):
    """Latent diffusion, in no more seconds than medsynth took."""

    name = DIFFUSION
    guidances = GUIDANCES

    def __init__(self, root: Path, out: Path, seed: int, seconds: float, per_image: float, as_given: LLMConfig) -> None:
        super().__init__(root / "diffusion")
        self.root.mkdir(exist_ok=True)
        self._paths, self._chosen = workspace_paths(root), out / "diffusion.json"
        self._seed, self._seconds, self._per_image, self._as_given = seed, seconds, per_image, as_given
        self._model: LatentDiffusion | None = None
        self._steps: int | None = None

    def tune(self, judge: _Judge, prompts: Sequence[PromptRow]) -> None:
        """Chooses width and rate on the first seed, once."""
        if not self._chosen.exists():
            scores = []
            for place in range(len(DIFFUSIONS)):
                self._fit(place)
                scores.append(judge.score(self.images(prompts, 2.0), prompts))
                log.info("diffusion %s: %.3f", DIFFUSIONS[place], scores[-1])
            self._chosen.write_text(json.dumps({"place": int(np.argmax(scores)), "scores": scores}), "utf-8")
        self._fit(json.loads(self._chosen.read_text("utf-8"))["place"])

    def _fit(self, place: int) -> None:
        width, rate = DIFFUSIONS[place]
        self._steps = None
        self._model = LatentDiffusion(self._paths, width, layers=2)
        path, noted = self.root / f"{place}.pt", self.root / f"{place}.json"
        if not noted.exists():
            given = self._as_given
            about = self._model.fit(
                self._paths, self._seconds, rate, self._seed, given.jitter, given.written_texts, _multiplies_bf16()
            )
            self._model.save(path)
            noted.write_text(json.dumps(about), "utf-8")
        self._model.load(path)
        about = json.loads(noted.read_text("utf-8"))
        self.training, self.parameters = about["seconds"], about["parameters"]

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        if self._steps is None:
            self._steps = self._affordable([prompt.text for prompt in prompts])
        return self.in_steps(prompts, guidance, self._steps)

    def in_steps(self, prompts: Sequence[PromptRow], guidance: float | None, steps: int) -> Images:
        """Returns an image a prompt, in so many steps of the solver."""
        assert self._model is not None
        return self._model.images([prompt.text for prompt in prompts], steps, guidance or 1.0, self._seed)

    def _affordable(self, texts: Sequence[str]) -> int:
        """Returns how many steps come nearest to medsynth's seconds an image, by the clock, guided."""
        assert self._model is not None
        few, taken = texts[:64], {}
        for steps in (1, 3):
            began = time.process_time()
            self._model.images(few, steps, GUIDANCES[-1], self._seed)
            taken[steps] = (time.process_time() - began) / len(few)
        each = max(1e-6, (taken[3] - taken[1]) / 2)
        steps = int(np.clip((self._per_image - taken[1]) / each + 1, *_SOLVER_STEPS))
        log.info("diffusion: %d solver steps for %.3f s an image", steps, self._per_image)
        return steps


class _AtLeisure(_Contestant):
    """The same diffusion model, in as many steps as are usual."""

    name = AT_LEISURE
    guidances = GUIDANCES

    def __init__(self, model: _Diffusion) -> None:
        super().__init__(model.root)
        self._model = model
        self.training, self.parameters = model.training, model.parameters

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        return self._model.in_steps(prompts, guidance, _SOLVER_STEPS[1])


class _Retrieval(_Contestant):
    """Returns real films of a split whose findings come nearest to the prompt's."""

    def __init__(self, root: Path, name: str, split: str, seed: int) -> None:
        super().__init__(root)
        self.name = name
        self._pairs, self._seed = read_pairs(workspace_paths(root), split), seed
        self._shown = [_shown(condition) for condition in self._pairs.conditions]

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        rows = []
        for place, prompt in enumerate(prompts):
            wanted = _shown(prompt.condition)
            likeness = np.array([len(wanted & each) / max(1, len(wanted | each)) for each in self._shown])
            best = np.flatnonzero(likeness == likeness.max())
            rows.append(int(best[stream(self._seed, "rivals.retrieved", self.name, place).integers(len(best))]))
        return self._pairs.corpus.images(self._pairs.rows[rows])


class _Drawn(_Contestant):
    """Phantoms of other patients that show what each prompt asks for."""

    name = REAL

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root)
        self._size = size

    def images(self, prompts: Sequence[PromptRow], guidance: float | None) -> Images:
        return _drawn(prompts, BOUND_SEED, self._size)


def _shown(condition: Condition) -> frozenset[tuple[str, str, str]]:
    return frozenset((f["pathology"], str(f["anatomy"]), str(f["side"])) for f in condition.findings) or frozenset(
        [("no finding", "", "")]
    )


def _judged(contestant: _Contestant, judge: _Judge, tuning: Sequence[PromptRow], asked: Sequence[PromptRow]) -> Figures:
    """Returns the figures of a contestant at the guidance that does best on other prompts; kept once they are known."""
    kept = judge.root / f"{_slug(contestant.name)}.json"
    if kept.exists():
        return Figures(**json.loads(kept.read_text("utf-8")))
    scores = [judge.score(contestant.images(tuning, guidance), tuning) for guidance in contestant.guidances]
    guidance = contestant.guidances[int(np.argmax(scores))] if scores else None
    log.info("%s: guidance %s of %s", contestant.name, guidance, dict(zip(contestant.guidances, scores, strict=True)))
    began = time.process_time()
    images = contestant.images(asked, guidance)
    took = (time.process_time() - began) / len(asked)
    np.save(kept.with_suffix(".npy"), images)
    figures = replace(
        judge.figures(images, asked),
        guidance=guidance,
        training=contestant.training,
        sampling=took,
        parameters=contestant.parameters,
    )
    kept.write_text(json.dumps(asdict(figures)), "utf-8")
    return figures


class _Judge:
    """Who says what images show, and how like real ones they are: the labelling judge and, of phantoms, the oracle,
    neither of which learnt from a patient of any contestant.

    Attributes:
        drawn: whether the corpus is the phantom's.
        size: of its images.
    """

    def __init__(self, root: Path, out: Path) -> None:
        self.root = root
        paths = workspace_paths(root)
        self._net, self._features = open_judge("", paths).eval(), open_extractor("", paths).eval()
        self._test, self._val, self._train = (read_pairs(paths, split) for split in ("test", "val", "train"))
        self._real = {name: self._of(pairs) for name, pairs in (("test", self._test), ("val", self._val))}
        tokenizer = load_image_tokenizer(paths["vqgan"])
        self._sides = {
            name: self._spaces(as_rendered(tokenizer, pairs.corpus.images(pairs.rows[:5000])))
            for name, pairs in (("training", self._train), ("held_out", self._test), ("reference", self._val))
        }
        self._tokenizer = tokenizer
        kind = json.loads((paths["corpus"] / "corpus.json").read_text("utf-8"))["kind"]
        self.drawn, self.size = kind == "phantom", self._test.corpus.image_size
        self._oracle = _oracle() if self.drawn else None

    def score(self, images: Images, prompts: Sequence[PromptRow]) -> float:
        """Returns what guidance is chosen by: the harmonic mean of precision, recall, and twice what the judge's AUROC
        of the prompted findings is above a guess."""
        near = neighbourhoods(self._real["val"], self._seen(images), _K)
        found = max(1e-3, 2 * self._found(images, prompts) - 1)
        return float(3 / sum(1 / max(1e-3, each) for each in (near.precision, near.recall, found)))

    def figures(self, images: Images, prompts: Sequence[PromptRow]) -> Figures:
        """Returns all that doesn't depend on how images were made."""
        features = self._seen(images)
        near = neighbourhoods(self._real["test"], features, _K)
        kid, _ = kernel_distance(features, self._real["test"], stream(0, "rivals.kid"), *_KID)
        enough = min(len(features), len(self._test)) > features.shape[1]
        fid = frechet_distance(Moments.of(features), Moments.of(self._real["test"])) if enough else None
        found, sided = self._found(images, prompts), None
        if self._oracle is not None:
            requested = [[(f["pathology"], f["side"]) for f in prompt.findings] for prompt in prompts]
            rows = found_table(self._oracle, images, requested)
            found = float(np.mean([row.balanced_accuracy for row in rows if row.balanced_accuracy is not None]))
            with_side = [row for row in rows if row.n_sided]
            weights = [row.n_sided for row in with_side]
            sided = float(np.average([float(row.side_correct or 0) for row in with_side], weights=weights))
        auc, refused = self._privacy(images)
        return Figures(
            found, sided, fid, kid, near.precision, near.recall, near.density, near.coverage, auc, refused,
            None, 0.0, 0.0, 0.0,
        )  # fmt: skip

    def _privacy(self, images: Images) -> tuple[float, str]:
        """Returns the stronger attacker's AUC, and what a release would be refused for."""
        made = self._spaces(as_rendered(self._tokenizer, images))
        rows: list[dict[str, Any]] = []
        for name, metric in (("pixels", "manhattan"), ("judge", "euclidean")):
            sides = (self._sides[each][name] for each in ("training", "held_out", "reference"))
            space = Space(name, metric, made[name], *sides)
            figures = [*distance_figures(space, 0), *membership_figures(space, 0)]
            rows += [asdict(figure) for figure in figures]
        aucs = [row["value"] for row in rows if row["metric"].startswith("membership_auc")]
        try:
            keep_limits(rows, RiskLimits())
        except RiskError as error:
            return max(aucs), str(error).split(" (")[0].removeprefix("not published: ")
        return max(aucs), ""

    def _spaces(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        return {"pixels": coordinates(thumbnails(images)), "judge": self._standard(self._seen(images))}

    def _standard(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        own = self._real["val"]
        return ((features - own.mean(0)) / (own.std(0) + 1e-6)).astype(np.float32)

    def _of(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        return self._seen(pairs.corpus.images(pairs.rows))

    @torch.inference_mode()
    def _seen(self, images: Images) -> npt.NDArray[np.float32]:
        parts = [self._features(torch.from_numpy(part)) for part in np.array_split(images, len(images) // 128 + 1)]
        features: npt.NDArray[np.float32] = torch.cat(parts).float().numpy()
        return features

    @torch.inference_mode()
    def _found(self, images: Images, prompts: Sequence[PromptRow]) -> float:
        """Returns the judge's mean AUROC of prompted pathologies."""
        parts = [self._net(torch.from_numpy(part)) for part in np.array_split(images, len(images) // 128 + 1)]
        margins = torch.cat(parts).float().numpy()
        terms = sorted({term for prompt in prompts for term, _ in pathology_labels(prompt.findings)})
        known = list(self._net.terms)
        shown = np.array([[term in {t for t, _ in pathology_labels(p.findings)} for term in terms] for p in prompts])
        side = Judged(_columns(margins, terms, known), shown, [prompt.prompt_id for prompt in prompts])
        figure = next(iter(judged_figures("judge", terms, side, side, 0)))
        return float(figure.value) if figure.value is not None else 0.5


@cache
def _oracle() -> Oracle:
    return Oracle.fit(JUDGE_SEED, n=6000, epochs=6)


def _columns(margins: npt.NDArray[np.float32], terms: list[str], known: list[str]) -> npt.NDArray[np.float32]:
    found = np.full((len(margins), len(terms)), np.nan, dtype=np.float32)
    for place, term in enumerate(terms):
        if term in known:
            found[:, place] = margins[:, known.index(term)]
    return found


def table(found: dict[str, list[Figures]]) -> str:
    """Returns the table in Markdown."""
    n = len(next(iter(found.values())))
    lines = [
        f"Means over {n} seeds with 95 % t-intervals; seconds of the processor.",
        "",
        f"| | {' | '.join(COLUMNS)} | refused for | training s | images a s | M parameters | guidance |",
        f"|---|{'---|' * (len(COLUMNS) + 5)}",
    ]
    for name, rows in found.items():
        cells = [_cell([value(row) for row in rows]) for value in COLUMNS.values()]
        cells.append(", ".join(sorted({row.refused for row in rows} - {""})) or "–")
        cells.append(f"{np.mean([row.training for row in rows]):.0f}")
        cells.append(f"{1 / max(1e-9, float(np.mean([row.sampling for row in rows]))):.1f}")
        cells.append(f"{np.mean([row.parameters for row in rows]) / 1e6:.1f}")
        cells.append(", ".join("–" if row.guidance is None else f"{row.guidance:g}" for row in rows))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.3f}"
    mean, half = _interval(known)
    return f"{mean:.3f} ± {half:.3f}"


if __name__ == "__main__":
    typer.run(main)
