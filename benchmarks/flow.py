"""The whole flow beside the bare engine, and its memory: ``python -m benchmarks.flow speed|memory OUT``.

Models are trained for two steps: what they draw is noise, which is as much work as a radiograph, and the filters'
bounds let it pass. ``speed`` makes the same number of images both ways in one process: from prompts to pixels by the
engine alone, and from prompts to judged, encoded and uploaded shards with their manifests under Prefect. ``memory``
runs the flow ``augment`` in a process of its own for a few and for many images and prints the most memory that it held.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.launch import set_prefect_defaults
from medsynth_core.config import Config, Paths, load_config
from medsynth_core.config.load import configure
from medsynth_core.progress import silent
from medsynth_core.quality.calibration import save_scores
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.stages import is_fresh, mark_fresh, read_stages, run_stage

PREPARED = ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "llm")
BASE = (
    *(
        f"models.{name}.train.{short}"
        for name in PREPARED[3:]
        for short in ("steps=2", "warmup_steps=1", "batch_size=4")
    ),
    "models.vqgan.adversarial_start=2",
    "vocabulary.min_studies=3",
    "quality.min_contrast=0",
)
SMALL = (
    "corpus.image_size=256",
    "corpus.n_studies=400",
    "models.vqgan.channels=[16, 16, 32, 32, 64]",
    "models.vqgan.codes=1024",
    "models.alignment.image_channels=[16, 32, 64, 128]",
    "models.llm.hidden=256",
    "models.llm.layers=6",
)
"""256 tokens an image; language model of the size ``small`` of benchmarks.engine."""
TINY = (
    "corpus.image_size=32",
    "corpus.n_studies=400",
    "models.vqgan.channels=[8, 8, 16]",
    "models.vqgan.codes=32",
    "models.alignment.image_channels=[8, 16]",
    "models.llm.hidden=16",
    "models.llm.layers=1",
    "models.llm.heads=2",
)
PASSING = {
    "alignment": {"agreement": -1.0},
    "llm": {
        **dict.fromkeys(("clipped", "noise", "anatomy", "niqe", "labels"), 1e9),
        **dict.fromkeys(("sharpness", "training_copy", "copy"), -1.0),
    },
}
"""Scores of held-out images, by model and filter, whose bounds let everything pass, so that every filter works."""

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def speed(
    out: Annotated[Path, typer.Argument(help="Folder for the workspace.")],
    images: Annotated[int, typer.Option(help="Images a side and a round, a multiple of 8.")] = 2000,
    rounds: Annotated[int, typer.Option()] = 1,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Images/s of the engine alone, half before and half after the flow, and of the flow."""
    wanted = [f"prompts.n={images // 8}", "synthesis.shard_images=256", "synthesis.batch_size=256", *(settings or ())]
    root, config = prepared(out / "speed", [*BASE, *SMALL, *wanted])
    set_prefect_defaults()
    from prefect import flow

    from flows.augment import synthesise
    from flows.runner import task_runner

    began = time.perf_counter()
    flow(lambda: None, name="warm-up")()
    print(f"Prefect's own start: {time.perf_counter() - began:.1f} s, not counted")
    synthesiser = Synthesiser.load(config, Paths(root))
    ratios = []
    for turn in range(rounds):
        shutil.rmtree(root / "store", ignore_errors=True)
        tokens = [engine_seconds(synthesiser, root, range(images // 2))]
        began = time.perf_counter()
        synthesise.with_options(task_runner=task_runner(config.runner))(str(root), config)
        whole = time.perf_counter() - began
        tokens.append(engine_seconds(synthesiser, root, range(images // 2, images)))
        ratios.append(sum(tokens) / whole)
        print(
            f"round {turn}: engine {images / sum(tokens):.2f} images/s ({tokens[0]:.1f} + {tokens[1]:.1f} s), "
            f"flow {images / whole:.2f} images/s ({whole:.1f} s), ratio {ratios[-1]:.3f}"
        )


def engine_seconds(synthesiser: Synthesiser, root: Path, places: range) -> float:
    """Returns the seconds of these images from prompts and keypatches to pixels, a batch rendered while the next is
    being decoded, as in the flow."""
    prompts = read_prompts(Paths(root).prompts)
    asked = [prompts[place // 8] for place in places]
    keypatches = synthesiser.keypatches(asked)
    ids = [image_id("bench", prompt.prompt_id, place % 8) for place, prompt in zip(places, asked, strict=True)]
    began = time.perf_counter()
    synthesiser.images(ids, asked, keypatches)
    return time.perf_counter() - began


@app.command()
def memory(
    out: Annotated[Path, typer.Argument(help="Folder for the workspaces.")],
    images: Annotated[list[int] | None, typer.Option(help="Images of each run, multiples of 80.")] = None,
) -> None:
    """The most memory that the process of the flow ``augment`` held, driver and workers together."""
    peaks = []
    for count in images or [2000, 20_000]:
        wanted = ["prompts.n=80", f"synthesis.samples_per_prompt={count // 80}", "synthesis.shard_images=200"]
        root, _ = prepared(out / f"memory-{count}", [*BASE, *TINY, *wanted])
        shutil.rmtree(root / "store", ignore_errors=True)
        began = time.perf_counter()
        child = os.spawnv(
            os.P_NOWAIT, sys.executable, [sys.executable, "-m", "flows.launch", "augment", "--workspace", str(root)]
        )
        _, status, usage = os.wait4(child, 0)
        if status:
            raise SystemExit(f"the flow failed with {status}")
        peaks.append(usage.ru_maxrss / 1024)
        print(f"{count} images: {peaks[-1]:.0f} MiB at most, {time.perf_counter() - began:.0f} s")
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


def prepared(root: Path, settings: list[str]) -> tuple[Path, Config]:
    """Returns a workspace whose models and prompts are made."""
    root = root.resolve()
    init_workspace(root, configure(settings, "demo"))
    config = load_config(root / "params.yaml")
    for name in PREPARED:
        stage = read_stages(root)[name]
        if not is_fresh(root, stage, config):
            report = run_stage(name, root, config, silent)
            if name in PASSING:
                save_scores(root / "models" / name, {filter_: [bound] for filter_, bound in PASSING[name].items()})
                mark_fresh(root, stage, config, report)
    return root, config


if __name__ == "__main__":
    app()
