"""Whole shards beside the engine alone, without Prefect: ``python -m benchmarks.shards OUT``, made for a GPU.

A language model of random weights decodes; the other models are those of ``benchmarks.prepared``. The engine goes from
prompts to pixels; a worker from there to judged, encoded and stored shards with their manifests, several in flight.
Both take turns in one process.
"""

from __future__ import annotations

import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.engine import SIZES, Machine, language_model
from benchmarks.prepared import BASE, SMALL, draw_seconds, prepared
from medsynth_core.config import Paths
from medsynth_core.models.artifact import pick_device, pick_dtype
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.identity import ShardPlan
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.synthesis.worker import ShardWorker
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

SAMPLES = 16

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Folder for the workspace.")],
    size: Annotated[str, typer.Option(help=f"Of the language model, of {tuple(SIZES)}.")] = "small",
    guidance: Annotated[float, typer.Option()] = 1.0,
    shards: Annotated[int, typer.Option(help="A side and a round.")] = 2,
    shard_images: Annotated[int, typer.Option(help=f"A multiple of {SAMPLES}.")] = 256,
    rounds: Annotated[int, typer.Option()] = 1,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Images/s of the engine alone and of whole shards, and the CPU time of one image."""
    wanted = [
        f"prompts.n={shards * shard_images // SAMPLES}",
        f"synthesis.samples_per_prompt={SAMPLES}",
        f"synthesis.shard_images={shard_images}",
        f"synthesis.guidance={guidance}",
    ]
    root, config = prepared(out / "shards", [*BASE, *SMALL, *wanted, *(settings or ())])
    worker = worker_of(size, config, workspace_paths(root))
    plan = stage.rounds(SynthesisParams.of(config), workspace_paths(root), worker.store, worker.identity)[-1].plan
    began = time.perf_counter()
    make(worker, plan, root / "warm-up", 1, 1)
    print(f"a first shard: {time.perf_counter() - began:.1f} s")
    ratios, images = [], shards * shard_images
    for turn in range(rounds):
        alone = draw(worker, plan, shards)
        began, cpu = time.perf_counter(), time.process_time()
        make(worker, plan, root / f"store-{turn}", shards, config.runner.in_flight)
        whole, cpu = time.perf_counter() - began, time.process_time() - cpu
        ratios.append(alone / whole)
        print(
            f"round {turn}: engine {images / alone:.1f} images/s, shards {images / whole:.1f} images/s, "
            f"ratio {ratios[-1]:.3f}; {1e3 * cpu / images:.1f} ms of CPU an image"
        )
    print(f"median ratio {statistics.median(ratios):.3f}")


def worker_of(size: str, config: Config, paths: Paths) -> ShardWorker:
    """Returns a worker of the workspace, but for its language model."""
    params, store = SynthesisParams.of(config), LocalStore(paths.root / "store")
    worker = stage.open_worker(params, paths, store, stage.identify(params, paths, store))
    theirs, device = worker.synthesiser, pick_device(config.device)
    machine = Machine(device, pick_dtype(config.synthesis.precision, device), 1.0, 1.0)
    llm = language_model(SIZES[size], machine, theirs.llm.layout.tokens)
    llm.config, llm.tokenizer = theirs.llm.config, theirs.llm.tokenizer
    synthesiser = Synthesiser(config.synthesis, theirs.image_tokenizer, theirs.alignment, theirs.codebook, llm)
    return replace(worker, synthesiser=synthesiser)


def draw(worker: ShardWorker, plan: ShardPlan, shards: int) -> float:
    """Returns the seconds of the images of some shards by the engine alone."""
    requests = [request for shard in range(shards) for request in plan.requests(shard)]
    prompts = [worker.prompts[request.prompt_index] for request in requests]
    return draw_seconds(worker.synthesiser, [request.image_id for request in requests], prompts)


def make(worker: ShardWorker, plan: ShardPlan, store: Path, shards: int, in_flight: int) -> None:
    """Makes some shards, as many in flight as the stage has."""
    shutil.rmtree(store, ignore_errors=True)
    worker = replace(worker, store=LocalStore(store))
    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(lambda shard: worker.make(plan, shard), range(shards)))


if __name__ == "__main__":
    app()
