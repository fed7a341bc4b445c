"""What the filters catch, reject wrongly and cost: ``python -m benchmarks.quality planted WORKSPACE``, and how much of
anatomy they know: ``anatomy WORKSPACE``, and which near-copies a release finds: ``duplicates WORKSPACE``.

The workspace has a phantom corpus and trained models. Good images are of three sorts: what the models make of the
workspace's prompts, as far as it agrees with them, the test split as the VQ-GAN renders it, and phantoms of no corpus
rendered likewise, with what mining reads in their reports. A hundred bad images of each of ten kinds are planted: eight
are changed good or training images, and two are phantoms, rendered by the VQ-GAN, whose findings aren't the prompt's.
Since a made image may lack its finding, the phantom oracle says which of the good ones show what was prompted.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
import typer
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth_core.config import Paths
from medsynth_core.corpus.phantom import PATHOLOGIES, Finding, drawing, phantom_studies, render_findings
from medsynth_core.corpus.records import Study
from medsynth_core.evaluation.oracle import Oracle
from medsynth_core.filters import FILTERS
from medsynth_core.filters.fingerprints import Fingerprints, first_of_alike
from medsynth_core.filters.thumbnails import Images, first_of_copies, thumbnails
from medsynth_core.judging.calibrated import bounds_of, load_chain
from medsynth_core.judging.networks import Judging, glimpses
from medsynth_core.judging.verdicts import Chain, Verdict
from medsynth_core.models.condition import Condition
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.rendering import as_rendered, rendered
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.vocabulary.labels import SIDES
from medsynth_core.vocabulary.mining import mine_report, positive_findings
from medsynth_core.workspace.params import load_config
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

app = typer.Typer(help=__doc__, add_completion=False)
Draw = np.random.Generator
PATIENTS_SEED = 930_001
"""Corpus seed of the patients in whom off-prompt and wrong-side findings are drawn; no corpus uses it."""


@dataclass(frozen=True)
class Asked:
    """Images and their prompts."""

    images_u8: Images
    prompts: Sequence[PromptRow]

    def take(self, picks: npt.NDArray[np.int64]) -> Asked:
        return Asked(self.images_u8[picks], [self.prompts[pick] for pick in picks])

    def __add__(self, other: Asked) -> Asked:
        return Asked(np.concatenate([self.images_u8, other.images_u8]), [*self.prompts, *other.prompts])


@app.callback()
def start() -> None:
    logging.basicConfig(level=logging.WARNING)


@app.command()
def planted(
    workspace: Annotated[Path, typer.Argument(help="With a phantom corpus and trained models.")],
    each: Annotated[int, typer.Option(help="Bad images a kind.")] = 100,
    samples: Annotated[int, typer.Option(help="Images a prompt among the good ones.")] = 8,
    fresh: Annotated[int, typer.Option(help="Phantoms of no corpus among the good ones.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the planting and of the made images.")] = 1,
    every_filter: Annotated[bool, typer.Option(help="Also those that the configuration leaves out.")] = False,
) -> None:
    """Recall of ten kinds of bad images, the filter that caught each, false rejections and time."""
    config, paths = load_config(workspace / "params.yaml"), workspace_paths(workspace.resolve())
    if every_filter:
        quality = config.quality.model_copy(update={"enabled": tuple(each.name for each in FILTERS)})
        config = config.model_copy(update={"quality": quality})
    synthesiser, chain = _loaded(SynthesisParams.of(config), paths)
    began = _clocks()
    made = _made(paths, synthesiser, samples, seed)
    synthesis_ms = _spent(began, len(made.prompts))
    agreeing = chain.judging.agreement(made.images_u8, [p.query for p in made.prompts]) >= chain.bounds["agreement"]
    print(f"{len(made.prompts)} images made, {agreeing.sum()} of which agree with their prompt")
    made = made.take(np.flatnonzero(agreeing))
    test = read_pairs(paths, "test")
    drawn = Asked(as_rendered(synthesiser.image_tokenizer, test.corpus.images(test.rows)), _prompts_of(test))
    _print_good(chain, {"made": made, "test split": drawn, "fresh phantoms": _fresh(synthesiser, fresh)})
    draw = np.random.default_rng([seed, 41])
    kinds = dict(_plant(config, paths, synthesiser, made + drawn, each, draw))
    _print_planted(chain, kinds)
    _print_cost(chain, made, synthesis_ms)


@app.command()
def anatomy(
    workspace: Annotated[Path, typer.Argument(help="With a phantom corpus and trained models.")],
    each: Annotated[int, typer.Option(help="Images a kind.")] = 100,
) -> None:
    """How many phantoms with wrong anatomy, rendered by the VQ-GAN, each filter alone and all together reject. The
    prompt is always what mining reads in the report."""
    params = SynthesisParams.of(load_config(workspace / "params.yaml"))
    paths = workspace_paths(workspace.resolve())
    synthesiser, chain = _loaded(params, paths)
    right = _fresh(synthesiser, each)
    names = [ready.filter.name for ready in chain.filters]
    print(f"| anatomy | all | {' | '.join(f'{name} alone' for name in names)} |")
    print(f"|---|---|{'---|' * len(names)}")
    for kind, wrong in _wrong_anatomies(synthesiser, right):
        verdicts = chain.verdicts(wrong.images_u8, wrong.prompts)
        lost = np.mean([not verdict.accepted for verdict in verdicts])
        print(f"| {kind} | {lost:.2f} | {' | '.join(_alone(chain, wrong))} |")


@app.command()
def duplicates(
    workspace: Annotated[Path, typer.Argument(help="With trained models and prompts.")],
    samples: Annotated[int, typer.Option(help="Images a prompt.")] = 8,
) -> None:
    """How many near-copies of made images each measure of the release finds, and how many made images it takes for
    copies of each other."""
    params = SynthesisParams.of(load_config(workspace / "params.yaml"))
    paths = workspace_paths(workspace.resolve())
    synthesiser, chain = _loaded(params, paths)
    made = _made(paths, synthesiser, samples, 3).images_u8
    first = first_of_copies(thumbnails(made), chain.bounds["copy"])[0]
    alike = first_of_alike(_features(chain.judging, made), chain.bounds["copy_features"])[0]
    print(
        f"{len(made)} made images, taken for copies: {first.mean():.2%} by thumbnails, {alike.mean():.2%} by features"
    )
    print("| near-copy | by thumbnails | by features | by either |")
    print("|---|---|---|---|")
    for kind, copies in _near_copies(synthesiser, made, samples):
        pairs = zip(made[:, None], copies[:, None], strict=True)
        found = np.array([_alike(np.concatenate(pair), chain) for pair in pairs])
        print(f"| {kind} | {found[:, 0].mean():.2f} | {found[:, 1].mean():.2f} | {found.any(1).mean():.2f} |")


def _loaded(params: SynthesisParams, paths: Paths) -> tuple[Synthesiser, Chain]:
    """Returns what draws and what judges in a workspace."""
    synthesiser, folder = Synthesiser.load(params, paths), paths["calibrate"]
    bounds = bounds_of(folder, params.quality)
    return synthesiser, load_chain(folder, params.quality, bounds, synthesiser.alignment, synthesiser.image_size)


def _features(judging: Judging, images_u8: Images) -> npt.NDArray[np.float16]:
    return judging.look(images_u8)[1].astype(np.float16)


def _alike(pair_u8: Images, chain: Chain) -> tuple[bool, bool]:
    """Returns whether the second of two images is a copy of the first by thumbnails, and by features."""
    by_thumbnails = first_of_copies(thumbnails(pair_u8), chain.bounds["copy"])[0][1]
    by_features = first_of_alike(_features(chain.judging, pair_u8), chain.bounds["copy_features"])[0][1]
    return bool(by_thumbnails), bool(by_features)


def _near_copies(synthesiser: Synthesiser, made: Images, samples: int) -> Iterator[tuple[str, Images]]:
    """Yields images that differ little from made ones: some codes are another sample's of the prompt, or the picture
    was changed."""
    draw, tokenizer = np.random.default_rng(0), synthesiser.image_tokenizer
    with torch.inference_mode():
        codes = tokenizer.encode(to_inputs(made, tokenizer.device))
        next_sample = codes.view(-1, samples, codes.shape[1]).roll(1, 1).reshape(codes.shape)
        for share in (0.0, 0.05, 0.1, 0.2, 0.4):
            other = torch.from_numpy(draw.random(tuple(codes.shape)) < share).to(codes.device)
            yield (
                f"{share:.0%} other codes",
                np.concatenate(list(rendered(tokenizer, torch.where(other, next_sample, codes)))),
            )
    yield "contrast x 1.1, brighter by 8", _u8(made * 1.1 + 8.0)
    for low in (0.97, 0.9):
        yield f"window of {low:.0%} of the side or more", np.stack([_windowed(each, draw, low, 1.0) for each in made])
    yield "mirrored", np.ascontiguousarray(made[:, :, ::-1])


def _wrong_anatomies(synthesiser: Synthesiser, right: Asked) -> Iterator[tuple[str, Asked]]:
    """Yields phantoms as they are, then by kind with organs that the drawing leaves out, or moved afterwards."""
    n, lung, ventricles, vessels = len(right.prompts), drawing._lung, drawing._ventricles, drawing._heart
    yield "usual", right
    for sign, side in ((-1, "right"), (1, "left")):
        with patch.object(drawing, "_lung", lambda at, *rest, gone=sign: lung(at, *rest) * (at != gone)):
            yield f"no {side} lung", _fresh(synthesiser, n)
    above = {
        "_heart": lambda *shape: vessels(*shape) * (shape[-1] < _DIAPHRAGM),
        "_ventricles": lambda *shape: ventricles(*shape) * (shape[-1] < _DIAPHRAGM),
    }
    with patch.multiple(drawing, **above):
        yield "no heart", _fresh(synthesiser, n)
    draw = np.random.default_rng(5)
    for kind, spoil in _MOVED.items():
        moved = np.stack([spoil(image, draw) for image in right.images_u8])
        yield kind, Asked(as_rendered(synthesiser.image_tokenizer, moved), right.prompts)


def _clocks() -> npt.NDArray[np.float64]:
    """Returns the time and the CPU time of this process, s."""
    return np.array([time.perf_counter(), time.process_time()])


def _spent(began: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """Returns time and CPU time since then, ms an image."""
    spent: npt.NDArray[np.float64] = (_clocks() - began) / n * 1e3
    return spent


def _made(paths: Paths, synthesiser: Synthesiser, samples: int, seed: int) -> Asked:
    """Returns images of the workspace's prompts."""
    prompts = [prompt for prompt in read_prompts(paths["prompts"]) for _ in range(samples)]
    ids = [image_id(f"quality-{seed}", prompt.prompt_id, place % samples) for place, prompt in enumerate(prompts)]
    return Asked(synthesiser.images(ids, prompts, synthesiser.keypatches(prompts)), prompts)


def _fresh(synthesiser: Synthesiser, n: int) -> Asked:
    """Returns phantoms of no corpus as the VQ-GAN renders them, with what mining reads in their reports."""
    size = synthesiser.image_size
    studies = [study for study in phantom_studies(PATIENTS_SEED, n, size) if isinstance(study, Study)]
    images = np.stack([study.views[0].load() for study in studies])
    prompts = [
        PromptRow(
            study.study_id,
            study.report,
            Condition(tuple(positive_findings(mine_report(f"{study.findings}\n{study.impression}"))), "frontal"),
        )
        for study in studies
    ]
    return Asked(as_rendered(synthesiser.image_tokenizer, images), prompts)


def _prompts_of(pairs: Pairs) -> list[PromptRow]:
    return [
        PromptRow(str(row), text, condition)
        for row, text, condition in zip(pairs.rows, pairs.texts, pairs.conditions, strict=True)
    ]


def _plant(
    config: Config, paths: Paths, synthesiser: Synthesiser, good: Asked, n: int, draw: Draw
) -> Iterator[tuple[str, Asked]]:
    """Yields bad images by kind; an exact duplicate comes as the good image and its copy after it."""
    size = good.images_u8.shape[1]
    for kind, spoil in _SPOILT.items():
        base = good.take(draw.choice(len(good.prompts), n, replace=False))
        yield kind, Asked(np.stack([spoil(image, draw) for image in base.images_u8]), base.prompts)
    asked = [prompt for prompt in read_prompts(paths["prompts"]) if prompt.findings]
    for kind, others in (("off-prompt", _other_findings), ("wrong side", _other_side)):
        able = [prompt for prompt in asked if kind != "wrong side" or any(f["side"] in SIDES for f in prompt.findings)]
        prompts = [able[place % len(able)] for place in range(n)]
        drawn = [
            render_findings(others(prompt, draw), PATIENTS_SEED, int(draw.integers(100_000)), size)
            for prompt in prompts
        ]
        yield kind, Asked(as_rendered(synthesiser.image_tokenizer, np.stack(drawn)), prompts)
    training = read_pairs(paths, "train")
    picks = draw.choice(len(training), n, replace=False)
    copied = as_rendered(synthesiser.image_tokenizer, training.corpus.images(training.rows[picks]))
    prompts = _prompts_of(training)
    yield (
        "changed training image",
        Asked(np.stack([_changed(image, draw) for image in copied]), [prompts[pick] for pick in picks]),
    )
    base = good.take(draw.choice(len(good.prompts), n, replace=False))
    yield "exact duplicate", base + base


def _blank(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    return _u8(draw.uniform(0, 255) + draw.normal(0, draw.uniform(0, 3), image.shape))


def _blurred(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    return _u8(gaussian_filter(image.astype(float), draw.uniform(1.0, 2.5) * len(image) / 64))


def _noisy(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    return _u8(image + draw.normal(0, draw.uniform(5, 30), image.shape))


def _saturated(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    return _u8((image - image.mean()) * draw.uniform(1.8, 4.0) + image.mean() + draw.uniform(-30, 30))


def _shifted(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    """Moved by an eighth to a quarter of the side, what is uncovered black or filled from the edge."""
    pixels = round(draw.uniform(0.125, 0.25) * len(image)) * draw.choice([-1, 1])
    down, right = draw.permutation([pixels, 0])
    padded = np.pad(image, abs(pixels), mode=str(draw.choice(["constant", "edge"])))  # type: ignore[call-overload]
    moved: npt.NDArray[np.uint8] = np.roll(padded, (down, right), (0, 1))[
        abs(pixels) : -abs(pixels), abs(pixels) : -abs(pixels)
    ]
    return moved


def _changed(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    """Brightened, cropped or mirrored, or several of them."""
    brightened, cropped, mirrored = np.unpackbits(draw.integers(1, 8, 1, dtype=np.uint8))[-3:]
    if brightened:
        image = _u8(image * draw.uniform(0.85, 1.15) + draw.uniform(-20, 20))
    if cropped:
        image = _windowed(image, draw, 0.88, 1.0)
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image


def _windowed(image: npt.NDArray[np.uint8], draw: Draw, low: float, high: float) -> npt.NDArray[np.uint8]:
    """A window of the image, its side's share between the bounds."""
    side = len(image) * draw.uniform(low, high)
    left, top = draw.uniform(0, len(image) - side, 2)
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize(image.shape, Image.Resampling.BILINEAR, box=box))


def _shrunk(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    side = round(len(image) * draw.uniform(0.6, 0.8))
    start = (len(image) - side) // 2
    out = np.zeros_like(image)
    out[start : start + side, start : start + side] = np.asarray(Image.fromarray(image).resize((side, side)))
    return out


def _turned(image: npt.NDArray[np.uint8], draw: Draw) -> npt.NDArray[np.uint8]:
    angle = float(draw.choice([-1, 1]) * draw.uniform(15, 30))
    return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))


def _u8(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


_DIAPHRAGM = -0.1
"""Height in the phantom's coordinates above which great vessels are left where there is no heart."""
_MOVED: dict[str, Callable[[npt.NDArray[np.uint8], Draw], npt.NDArray[np.uint8]]] = {
    "mirrored": lambda image, draw: np.ascontiguousarray(image[:, ::-1]),
    "upside down": lambda image, draw: np.ascontiguousarray(image[::-1]),
    "turned by 15 to 30 degrees": _turned,
    "window of 75 to 85 % of the side": lambda image, draw: _windowed(image, draw, 0.75, 0.85),
    "shrunk to 60 to 80 %": _shrunk,
}
_SPOILT: dict[str, Callable[[npt.NDArray[np.uint8], Draw], npt.NDArray[np.uint8]]] = {
    "blank": _blank,
    "inverted": lambda image, draw: 255 - image,
    "blurred": _blurred,
    "noisy": _noisy,
    "saturated": _saturated,
    "shifted": _shifted,
}


def _other_findings(prompt: PromptRow, draw: Draw) -> tuple[Finding, ...]:
    """Returns one finding that the prompt doesn't have."""
    name = str(draw.choice([each for each in PATHOLOGIES if each not in prompt.condition.pathology]))
    side = {"cardiomegaly": "none", "pulmonary edema": "bilateral", "emphysema": "bilateral"}.get(
        name, str(draw.choice(SIDES))
    )
    zone = str(draw.choice(["upper", "middle", "lower"])) if name in {"consolidation", "lung nodule"} else None
    severity = str(draw.choice(["mild", "moderate", "severe"]))
    return (Finding(name, "lung", side, severity, zone),)  # type: ignore[arg-type]


def _other_side(prompt: PromptRow, draw: Draw) -> tuple[Finding, ...]:
    """Returns the prompt's findings, those with a side on the other one."""
    other = {"left": "right", "right": "left"}
    return tuple(
        Finding(
            each["pathology"],
            each["anatomy"] or "lung",
            other.get(each["side"], each["side"]),
            each["severity"] or "moderate",
            next((zone for zone in ("upper", "lower") if zone in (each["anatomy"] or "")), "middle")  # type: ignore[arg-type]
            if each["pathology"] in {"consolidation", "lung nodule"}
            else None,
        )
        for each in prompt.findings
    )


def _print_good(chain: Chain, sorts: dict[str, Asked]) -> None:
    oracle = Oracle.fit()
    print("| good images | n | rejected | by | shown by the oracle | of these rejected |")
    print("|---|---|---|---|---|---|")
    for name, good in sorts.items():
        verdicts = chain.verdicts(good.images_u8, good.prompts)
        lost = np.array([not verdict.accepted for verdict in verdicts])
        shown = _shown(oracle, good)
        rates = f"{lost.mean():.1%} | {_reasons(verdicts)} | {shown.sum()} | {lost[shown].mean():.1%}"
        print(f"| {name} | {len(lost)} | {rates} |")


def _shown(oracle: Oracle, good: Asked) -> npt.NDArray[np.bool_]:
    """Returns whether the oracle sees every prompted finding on its side, and no other."""
    found = oracle.probabilities(good.images_u8) > 0.5
    truth = np.zeros_like(found)
    for row, prompt in enumerate(good.prompts):
        for finding in prompt.findings:
            for column, side in enumerate(SIDES):
                if finding["side"] not in SIDES or finding["side"] == side:
                    truth[row, PATHOLOGIES.index(finding["pathology"]), column] = True
    shown: npt.NDArray[np.bool_] = (found == truth).all((1, 2))
    return shown


def _print_planted(chain: Chain, kinds: dict[str, Asked]) -> None:
    """Prints recall, what caught each image first, and what each filter alone would have caught."""
    names = [ready.filter.name for ready in chain.filters]
    print(f"| planted | n | recall | caught by | {' | '.join(f'{name} alone' for name in names)} |")
    print(f"|---|---|---|---|{'---|' * len(names)}")
    for kind, bad in kinds.items():
        verdicts = chain.verdicts(bad.images_u8, bad.prompts)
        if kind == "exact duplicate":
            features, all_of_them = _features(chain.judging, bad.images_u8), np.ones(len(verdicts), dtype=bool)
            chain.judge_together(verdicts, Fingerprints(thumbnails(bad.images_u8), features, all_of_them))
            verdicts = verdicts[len(verdicts) // 2 :]
        caught = np.mean([not verdict.accepted for verdict in verdicts])
        alone = " | ".join(_alone(chain, bad))
        print(f"| {kind} | {len(verdicts)} | {caught:.2f} | {_reasons(verdicts)} | {alone} |")


def _alone(chain: Chain, bad: Asked) -> list[str]:
    """Returns the share that each filter rejects of all images."""
    judged = [replace(chain, filters=[ready]).verdicts(bad.images_u8, bad.prompts) for ready in chain.filters]
    return [f"{np.mean([not verdict.accepted for verdict in each]):.2f}" for each in judged]


def _reasons(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.reasons[0] for verdict in verdicts if verdict.reasons)
    return ", ".join(f"{reason} {n}" for reason, n in counts.most_common())


def _print_cost(chain: Chain, made: Asked, synthesis_ms: npt.NDArray[np.float64]) -> None:
    """Prints what each filter takes, batches of 64, every image shown to every filter."""
    total = np.zeros(2)
    for ready in chain.filters:
        began = _clocks()
        for images, prompts, context in glimpses(chain.judging, made.images_u8, made.prompts, 64):
            ready.judge(images, prompts, context, chain.bounds)
        spent = _spent(began, len(made.prompts))
        total += spent
        print(f"{ready.filter.name}: {spent[0]:.2f} ms an image, {spent[1]:.2f} of a core")
    share = total / (total + synthesis_ms)
    print(f"all filters: {total[0]:.1f} ms, {total[1]:.1f} of a core")
    print(f"synthesis: {synthesis_ms[0]:.1f} ms, {synthesis_ms[1]:.1f} of a core; the filters' share of both together:")
    print(f"{share[0]:.1%} of the time one after the other, {share[1]:.1%} of the cores' time")


if __name__ == "__main__":
    app()
