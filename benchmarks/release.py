"""Publishing and reading beside what they are made of and what else there is: ``python -m benchmarks.release --help``.

Each command starts an S3 server of its own on this machine, which keeps objects in memory and takes its time from the
same cores. Both sides of a ratio handle the same bytes and take turns in one process; the median of the rounds counts.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from botocore.config import Config as BotoConfig
from rich.console import Console
from rich.table import Table

from benchmarks import release_readers as readers
from benchmarks.made_release import Image, Packed, leave_judged, made_images, pack_shard, plan_of, upload_packed
from benchmarks.server import serving_s3
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.storage.completion import finished_shards
from medsynth_core.storage.index import ReleaseEntry, claim
from medsynth_core.storage.stores.s3 import S3Store
from medsynth_core.workspace.repository import dvc, git
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

RUN = "b" * 32
BUCKET = "bench"
REGION = "us-east-1"
IN_FLIGHT = 2
"""Shards that are uploaded at once, as ``runner.in_flight``."""
OURS = "medsynth"

app = typer.Typer(help=__doc__, add_completion=False)

Folder = Annotated[Path, typer.Argument(help="Folder for workspaces and the server's log.")]
Images = Annotated[int, typer.Option(help="A multiple of --shard-images.")]
ShardImages = Annotated[int, typer.Option()]
Side = Annotated[int, typer.Option(help="Pixels of an image's side.")]
Rounds = Annotated[int, typer.Option()]


class CountingStore(S3Store):
    """Keeps what is put: every call's body counts, also of one that is refused because the object stands there."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        super().__init__(BUCKET, prefix, endpoint, REGION)
        self.sent: list[tuple[str, bytes]] = []

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self.sent.append((key, data))
        return super().put(key, data, if_absent=if_absent)

    def n_bytes(self) -> int:
        return sum(len(data) for _, data in self.sent)


@app.command()
def publish(
    out: Folder,
    images: Images = 20_000,
    shard_images: ShardImages = 500,
    side: Side = 64,
    rounds: Rounds = 3,
    rejected: Annotated[int, typer.Option(help="Images of each shard that were rejected.")] = 0,
    with_dvc: Annotated[bool, typer.Option("--dvc/--no-dvc", help="Also add and push by DVC, once.")] = True,
) -> None:
    """To a claimed version, from encoded images and from packed shards, beside bare puts of the same objects and beside
    DVC, whose own start counts."""
    shards = make_shards(images, shard_images, side)

    def pack(number: int) -> Packed:
        return pack_shard(RUN, number, shards[number], rejected)

    packed = [pack(number) for number in range(len(shards))]
    with server(out) as endpoint:
        first, again = CountingStore(endpoint, "warm-up"), CountingStore(endpoint, "warm-up")
        publish_all(first, pack, len(shards), out / "warm-up")
        objects = list({key: data for key, data in first.sent if key.startswith("files/")}.items())
        stores = [S3Store(BUCKET, f"team{turn}", endpoint, REGION) for turn in range(rounds)]
        stores_of_packing = [S3Store(BUCKET, f"packing{turn}", endpoint, REGION) for turn in range(rounds)]
        client = client_of(endpoint)
        for store in (*stores, *stores_of_packing):
            store.size("connected")
        times = take_turns(
            {
                OURS: lambda turn: publish_all(stores[turn], packed.__getitem__, len(packed), out / f"team{turn}"),
                "bare put_object": lambda turn: put_all(client, f"bare{turn}", objects),
                "medsynth, packing too": lambda turn: publish_all(
                    stores_of_packing[turn], pack, len(packed), out / f"packing{turn}"
                ),
                "medsynth, the same again": lambda turn: publish_all(again, pack, len(packed), out / "warm-up"),
            },
            rounds,
        )
        if with_dvc:
            tars, bytes_of = files_of(first, endpoint, "shards/"), dict(objects)
            contents = {
                "dvc, a file an image": {
                    f"{identity}.png": png for shard in shards for identity, png, _ in shard[rejected:]
                },
                "dvc, shards": {Path(path).name: bytes_of[key] for path, key in tars.items()},
            }
            for number, (name, files) in enumerate(contents.items()):
                times[name] = [push_by_dvc(endpoint, out / f"dvc{number}", files)] * rounds
        size = sum(len(data) for _, data in objects)
        title = (
            f"publish: {images} images of {side} x {side}, {rejected} of {shard_images} rejected, "
            f"{len(objects)} objects, {size / 1e6:.0f} MB"
        )
        print_rates(title, images, times)
        repeated = again.n_bytes() / rounds
        print(f"the same again sent {repeated:.0f} bytes, {repeated / first.n_bytes():.3%} of the first time's")


@app.command()
def read(
    out: Folder,
    images: Images = 20_000,
    shard_images: ShardImages = 500,
    side: Side = 64,
    rounds: Rounds = 3,
    random: Annotated[bool, typer.Option("--random/--no-random", help="Also at random, which is slow.")] = True,
) -> None:
    """An epoch, opening included, in two DataLoader workers: in sequence beside webdataset and datasets, and at random
    beside an object an image."""
    shards = make_shards(images, shard_images, side)
    with server(out) as endpoint:
        store, client = S3Store(BUCKET, "team", endpoint, REGION), client_of(endpoint)
        publish_all(store, lambda number: pack_shard(RUN, number, shards[number]), len(shards), out / "team")
        tars = files_of(store, endpoint, "shards/")
        for path, key in tars.items():
            client.put_object(Bucket=BUCKET, Key=path, Body=store.get(key))
        if random:
            put_all(client, "images", [(identity, png) for shard in shards for identity, png, _ in shard])
        keys = [f"images/{identity}" for shard in shards for identity, _, _ in shard]
        labels = [row["labels"] for shard in shards for _, _, row in shard]
        shards.clear()  # or every forked worker would carry them along
        urls = [f"{endpoint}/{BUCKET}/{path}" for path in tars]
        sides: dict[str, dict[str, Callable[[], readers.Batches]]] = {
            "in sequence": {
                OURS: lambda: readers.medsynth_stream(store.url, endpoint),
                "webdataset, http": lambda: readers.webdataset_stream(urls),
                "webdataset, pipe:curl": lambda: readers.webdataset_stream([f"pipe:curl -s -L {url}" for url in urls]),
                "datasets, http": lambda: readers.datasets_stream(urls),
            }
        }
        if random:
            sides["at random"] = {
                OURS: lambda: readers.medsynth_dataset(store.url, endpoint),
                "an object an image": lambda: readers.objects_dataset(BUCKET, keys, labels, endpoint),
            }
        for title, opened in sides.items():
            epochs = {name: partial(read_epoch, each, images) for name, each in opened.items()}
            take_turns(epochs, 1)
            print_rates(f"read {title}: {images} images of {side} x {side}", images, take_turns(epochs, rounds))


def read_epoch(opened: Callable[[], readers.Batches], images: int, _turn: int) -> None:
    """Reads all images once.

    Raises:
        RuntimeError: there are more or fewer.
    """
    found = sum(len(batch["image"]) for batch in opened())
    if found != images:
        raise RuntimeError(f"{found} images came of {images}")


def make_shards(images: int, shard_images: int, side: int) -> list[list[Image]]:
    """Returns encoded images with their rows, shard by shard."""
    if images % shard_images:
        raise typer.BadParameter(f"{images} images don't fill shards of {shard_images}")
    return [list(made_images(RUN, shard, shard_images, side)) for shard in range(images // shard_images)]


def publish_all(store: S3Store, packed: Callable[[int], Packed], n_shards: int, root: Path) -> None:
    """Uploads and records the shards that aren't recorded, makes a release of all and claims its version."""
    records = finished_shards(store, plan_of(RUN), n_shards)
    missing = [number for number in range(n_shards) if number not in records]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        made = pool.map(lambda number: upload_packed(store, RUN, number, n_shards, packed(number)), missing)
        records.update(zip(missing, made, strict=True))
    paths, config = workspace_paths(root), Config()
    leave_judged(paths, RUN, [record for _, record in sorted(records.items())])
    made = perform("release", config, paths.root, silent, store)

    def entry(tag: str) -> ReleaseEntry:
        return ReleaseEntry(
            tag=tag,
            dir_md5=made.dir_md5,
            n_files=made.n_files,
            n_bytes=made.n_bytes,
            counts=made.counts,
            spec_hash=RUN,
            parent=None,
            commit="0" * 40,
            generator_version="0",
        )

    claim(store, config.release.name, 0, entry)


def put_all(client: Any, prefix: str, objects: Sequence[tuple[str, bytes]]) -> None:
    """Puts objects as they are."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda each: client.put_object(Bucket=BUCKET, Key=f"{prefix}/{each[0]}", Body=each[1]), objects))


def push_by_dvc(endpoint: str, root: Path, files: Mapping[str, bytes]) -> Spent:
    """Returns what it takes to ``dvc add`` and ``dvc push`` a folder, DVC's start included, and prints each."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "images").mkdir(parents=True)
    for name, data in files.items():
        (root / "images" / name).write_bytes(data)
    git(root, "init", "--quiet")
    dvc(root, "init", "--quiet")
    dvc(root, "remote", "add", "--default", "store", f"s3://{BUCKET}/{root.name}")
    dvc(root, "remote", "modify", "store", "endpointurl", endpoint)
    add, push = (timed(partial(dvc, root, *command)) for command in (("add", "images"), ("push",)))
    print(f"{len(files)} files: dvc add {add.wall:.1f} s, dvc push {push.wall:.1f} s")
    return Spent(add.wall + push.wall, add.cpu + push.cpu)


def files_of(store: S3Store, endpoint: str, folder: str) -> dict[str, str]:
    """Returns the keys of a release's files below a folder by path."""
    files = open_release(store.url, endpoint_url=endpoint).files
    return {path: key for path, key in sorted(files.items()) if path.startswith(folder)}


def client_of(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=BotoConfig(max_pool_connections=32))


@contextmanager
def server(out: Path) -> Iterator[str]:
    """Yields the address of a new server with an empty bucket; credentials go into the environment."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    with serving_s3(out) as endpoint:
        client_of(endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint


@dataclass(frozen=True)
class Spent:
    """Seconds of one call: on the clock, and of all cores by this process and the children that it waited for."""

    wall: float
    cpu: float


def take_turns(sides: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[Spent]]:
    """Returns what each side took by round; who begins changes from round to round."""
    times: dict[str, list[Spent]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            times[side].append(timed(partial(sides[side], turn)))
    return times


def timed(call: Callable[[], Any]) -> Spent:
    """Returns what a call took."""
    began, cpu = time.perf_counter(), cpu_seconds()
    call()
    return Spent(time.perf_counter() - began, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Returns the seconds that this process and its finished children have computed so far."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def print_rates(title: str, images: int, times: Mapping[str, Sequence[Spent]]) -> None:
    """Prints each side's medians, and the median over the rounds of our rate over its."""
    table = Table(title=title)
    for column in ("", "s", "CPU s", "images/s", "medsynth's rate over it", "by round"):
        table.add_column(column, justify="right" if column else "left")
    for side, spent in times.items():
        ratios = [other.wall / own.wall for other, own in zip(spent, times[OURS], strict=True)]
        wall, cpu = (statistics.median(getattr(each, name) for each in spent) for name in ("wall", "cpu"))
        shown = ("", "") if side == OURS else (f"{statistics.median(ratios):.2f}", " ".join(f"{r:.2f}" for r in ratios))
        table.add_row(side, f"{wall:.2f}", f"{cpu:.2f}", f"{images / wall:.0f}", *shown)
    Console(width=140).print(table)


if __name__ == "__main__":
    app()
