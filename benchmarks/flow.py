"""The whole flow beside the bare engine, and its memory: ``python -m benchmarks.flow speed|memory|stages OUT``.

``speed`` makes the same number of images both ways in one process: from prompts to pixels by the
engine alone, and from prompts to judged, encoded and uploaded shards with their manifests under Prefect. ``memory``
runs the flow ``augment`` in a process of its own for a few and for many images and prints the most memory that it held;
``stages`` runs what comes after synthesis, each stage in a process of its own, on shards of made-up images.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.made_release import leave_shards, made_images, upload_shard
from benchmarks.prepared import BASE, SMALL, TINY, draw_seconds, prepared
from flows.launch import set_prefect_defaults
from medsynth_core.config import Paths
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.workspace.stages import workspace_paths

AFTER = ("deduplicate", "privacy", "fidelity", "release", "evaluate", "report")
"""Commands."""
_PEAK = """
import atexit, re, runpy, sys
from pathlib import Path
peak, module, *sys.argv[1:] = sys.argv[1:]
atexit.register(lambda: Path(peak).write_text(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a module and leaves the most memory that its process held, kB; what the parent holds isn't counted, as it would
be in a child's resource usage."""

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
    from tasks.shards import plan_round

    began = time.perf_counter()
    flow(lambda: None, name="warm-up")()
    print(f"Prefect's own start: {time.perf_counter() - began:.1f} s, not counted")
    synthesiser = Synthesiser.load(SynthesisParams.of(config), workspace_paths(root))
    ratios = []
    for turn in range(rounds):
        shutil.rmtree(root / "store", ignore_errors=True)
        tokens = [engine_seconds(synthesiser, root, range(images // 2))]
        began = time.perf_counter()
        todo = plan_round(str(root), config)
        synthesise.with_options(task_runner=task_runner(config.runner))(str(root), config, todo)
        whole = time.perf_counter() - began
        tokens.append(engine_seconds(synthesiser, root, range(images // 2, images)))
        ratios.append(sum(tokens) / whole)
        print(
            f"round {turn}: engine {images / sum(tokens):.2f} images/s ({tokens[0]:.1f} + {tokens[1]:.1f} s), "
            f"flow {images / whole:.2f} images/s ({whole:.1f} s), ratio {ratios[-1]:.3f}"
        )


def engine_seconds(synthesiser: Synthesiser, root: Path, places: range) -> float:
    """Returns the seconds of these images by the engine alone."""
    prompts = read_prompts(workspace_paths(root)["prompts"])
    asked = [prompts[place // 8] for place in places]
    ids = [image_id("bench", prompt.prompt_id, place % 8) for place, prompt in zip(places, asked, strict=True)]
    return draw_seconds(synthesiser, ids, asked)


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
        peak, seconds = peak_of("flows.launch", "augment", "--workspace", str(root))
        peaks.append(peak)
        print(f"{count} images: {peak:.0f} MiB at most, {seconds:.0f} s")
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


@app.command()
def stages(
    out: Annotated[Path, typer.Argument(help="Folder for the workspaces.")],
    images: Annotated[list[int] | None, typer.Option(help="Images of each run, multiples of 200.")] = None,
) -> None:
    """The most memory of each stage after synthesis, and its time, for a few and for many images."""
    peaks: dict[str, list[float]] = {}
    counts = images or [2000, 100_000]
    for count in counts:
        root, config = prepared(out / f"stages-{count}", [*BASE, *TINY, "prompts.n=80", "privacy.min_images=10"])
        shutil.rmtree(root / "store", ignore_errors=True)
        made_up(workspace_paths(root), open_store(config.store, root), count // 200)
        for name in AFTER:
            peak, seconds = peak_of("medsynth_core.cli.main", name, "--workspace", str(root))
            peaks.setdefault(name, []).append(peak)
            print(f"{count} images, {name}: {peak:.0f} MiB, {seconds:.0f} s", flush=True)
    times = counts[-1] / counts[0]
    for name, of_counts in peaks.items():
        print(f"{name}: {of_counts[-1] / of_counts[0]:.3f} of the memory at {times:.0f} times the images")


def peak_of(module: str, *arguments: str) -> tuple[float, float]:
    """Returns the most memory that a module run in a process of its own held, MiB, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        began, peak = time.perf_counter(), Path(folder) / "peak"
        subprocess.run([sys.executable, "-c", _PEAK, str(peak), module, *arguments], check=True)
        return int(peak.read_text()) / 1024, time.perf_counter() - began


def made_up(paths: Paths, store: ObjectStore, n_shards: int) -> None:
    """Leaves shards of 200 images of noise as the synthesis stage does, a tenth of them rejected."""
    run, side = "f" * 32, 32
    with ThreadPoolExecutor(2) as pool:
        records = list(
            pool.map(
                lambda shard: upload_shard(store, run, shard, n_shards, list(made_images(run, shard, 200, side)), 20),
                range(n_shards),
            )
        )
    leave_shards(paths["synthesis"], run, records)


if __name__ == "__main__":
    app()
