"""What a run in the store costs beside its shards, and what a second worker adds.

    python -m benchmarks.fleet records [--shards 20000] [--s3]
    python -m benchmarks.fleet workers WORKSPACE [--rounds 3]

``records`` writes so many completion records and attempts, without images, and times what looks at all of them:
planning, what is missing, `medsynth status`, and the flow's looks for news, as often as it takes them; and the memory
of who watches, at half and at all of them. Each is given beside the run's time, at the images a second that
docs/explanation/performance.md has of one H200.

``workers`` has the shards of a workspace's run made by one worker of one thread, by two such workers side by side, and
again, in alternation; the ratio of their images a second is 2 where workers don't disturb each other. Models are
loaded before the clock starts.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.server import serving_s3
from flows.fleet import _LOOK_S, _LOOKS_SHARE
from medsynth_core.manifest import table_of
from medsynth_core.storage.attempts import open_attempts
from medsynth_core.storage.completion import CompletionRecord, Counts, finished_shards, record_key, standing_shards
from medsynth_core.storage.content import put_content
from medsynth_core.storage.parquet import parquet_bytes
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis.identity import ShardPlan
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.stage import open_published, publish_round
from medsynth_core.synthesis.work import Work
from medsynth_core.workspace.params import load_config
from medsynth_core.workspace.stages import workspace_paths

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=120)
RUN, SHARD_IMAGES, IMAGES_PER_S = "benchmark", 64, 133.0


@app.command()
def records(
    shards: Annotated[int, typer.Option(help="Records.")] = 20_000,
    s3: Annotated[bool, typer.Option("--s3", help="On an S3-protocol server of this machine.")] = False,
) -> None:
    """Times what looks at all records."""
    with tempfile.TemporaryDirectory() as folder, _store(Path(folder), s3) as store:
        took_s = shards * SHARD_IMAGES / IMAGES_PER_S
        plan = ShardPlan("spec", RUN, ("p",), ((0, shards * SHARD_IMAGES),), SHARD_IMAGES)
        written = _write(store, shards // 2, 0, shards)
        memory = [_memory_of_news(store, shards)]
        written += _write(store, shards, shards // 2, shards)
        memory.append(_memory_of_news(store, shards))
        known = finished_shards(store, RUN, shards)
        looks: dict[str, Callable[[], object]] = {
            "what is missing (a worker's look)": lambda: (standing_shards(store, RUN), open_attempts(store, RUN)),
            "all records, once (planning, collecting, status)": lambda: finished_shards(store, RUN, shards),
            "news, when all are known (the flow's look)": lambda: finished_shards(store, RUN, shards, known),
            "a shard's requests, from the plan": lambda: replace(plan).requests(shards - 1),
        }
        table = Table("look", "seconds", f"of a run of {took_s / 3600:.1f} h on one GPU")
        for name, look in looks.items():
            began = time.perf_counter()
            look()
            seconds = time.perf_counter() - began
            times = took_s / max(_LOOK_S, seconds / _LOOKS_SHARE) if name.startswith("news") else 1
            table.add_row(name, f"{seconds:.2f}", f"{seconds * times / took_s:.3%}")
        console.print(table)
        console.print(f"memory that who watches needs more at {shards} records than at {shards // 2}: "
                      f"{memory[1] - memory[0]:.1f} MiB; written in {written:.0f} s")  # fmt: skip


@contextmanager
def _store(folder: Path, s3: bool) -> Iterator[ObjectStore]:
    if not s3:
        yield open_store(StoreConfig(url=str(folder / "store")), folder)
        return
    import boto3

    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    with serving_s3(folder) as endpoint:
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="fleet")
        yield open_store(StoreConfig(url="s3://fleet/data", endpoint_url=endpoint), folder)


def _write(store: ObjectStore, stop: int, start: int, n_shards: int) -> float:
    began = time.perf_counter()
    empty = put_content(store, "manifest/x.parquet", parquet_bytes(table_of([])))
    for shard in range(start, stop):
        record = CompletionRecord(
            run_id=RUN, shard=shard, n_shards=n_shards, tar=None, manifest=empty, rejected=None,
            counts=Counts(requested=SHARD_IMAGES, accepted=SHARD_IMAGES),
        )  # fmt: skip
        store.put(record_key(RUN, shard), record.model_dump_json().encode())
        store.put(f"runs/{RUN}/attempts/{shard:05d}/1.json", b"{}")
    return time.perf_counter() - began


def _memory_of_news(store: ObjectStore, n_shards: int) -> float:
    """Returns the MiB that a process has after it has seen all records that are there."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_watch, (store, n_shards))


def _watch(store: ObjectStore, n_shards: int) -> float:
    from tasks.fleet import Watched

    watched = Watched(store, RUN, n_shards)
    for _ in watched.news():
        pass
    return psutil.Process().memory_info().rss / 2**20


@app.command()
def workers(
    workspace: Annotated[Path, typer.Argument(help="With trained models.", exists=True)],
    rounds: Annotated[int, typer.Option(help="Times that one and two workers are tried.")] = 3,
) -> None:
    """Prints images a second of one worker and of two, and their ratio."""
    pace: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for count in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                pace[count].append(_pace(workspace.resolve(), Path(folder), count, number))
            console.print(f"round {number + 1}, {count} workers: {pace[count][-1]:.2f} images a second")
    ratios = [two / one for one, two in zip(pace[1], pace[2], strict=True)]
    console.print(
        f"two workers make {np.median(ratios):.2f} times what one makes ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _pace(root: Path, folder: Path, count: int, seed: int) -> float:
    config = load_config(root / "params.yaml", [f"synthesis.seed={seed}"])
    store = StoreConfig(url=str(folder / "store"))
    published = publish_round(SynthesisParams.of(config), workspace_paths(root, config), open_store(store, folder))
    context = multiprocessing.get_context("spawn")
    ready, starts = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_work, args=(store, published.plan.run_id, folder, (part, count), ready, starts))
        for part in range(count)
    ]
    for process in processes:
        process.start()
    began = min(starts.get() for _ in processes)
    for process in processes:
        process.join()
    # Who has nothing left to do looks every few seconds whether others are ready: the last record is the end.
    records = open_store(store, folder).list(f"runs/{published.plan.run_id}/shards/")
    return published.plan.n_images / (max(stored.modified.timestamp() for stored in records) - began)


def _work(store: StoreConfig, run_id: str, folder: Path, part: tuple[int, int], ready: object, starts: object) -> None:
    import torch

    torch.set_num_threads(1)
    opened = open_store(store, folder)
    worker, plan = open_published(opened, run_id, folder / f"cache-{part[0]}", "cpu")
    ready.wait()  # type: ignore[attr-defined]
    starts.put(time.time())  # type: ignore[attr-defined]
    Work(worker.make, plan, opened, part=part, in_flight=1).run()


if __name__ == "__main__":
    app()
