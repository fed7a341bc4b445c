"""Completion records of a run, read one after the other and at once: ``python -m benchmarks.records``.

A round of a million images has 16,000 records. They are written to an S3 server on 127.0.0.1 (ministack, one process)
and to a folder; both ways of reading take turns in one process. ``--delay-ms`` makes each request wait, as one to a
store elsewhere does.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer

from benchmarks.server import serving_s3
from medsynth_core.storage.completion import CompletionRecord, Counts, finished_shards, read_record, write_record
from medsynth_core.storage.content import ObjectRef
from medsynth_core.storage.store import ObjectStore
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.storage.stores.s3 import S3Store

RUN = "run"

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def main(
    records: Annotated[int, typer.Option()] = 2000,
    rounds: Annotated[int, typer.Option()] = 5,
    delay_ms: Annotated[float, typer.Option(help="Added to each request to the S3 server.")] = 0.0,
) -> None:
    """Seconds of both ways and their ratio, medians over rounds."""
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    with tempfile.TemporaryDirectory() as folder, serving_s3(Path(folder)) as endpoint:
        store = S3Store("records", "team", endpoint, "us-east-1")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="records")
        store._client.meta.events.register("before-send.s3.GetObject", lambda **_: time.sleep(delay_ms / 1000))
        compare("S3", store, records, rounds)
        compare("folder", LocalStore(Path(folder) / "store"), records, rounds)


def compare(name: str, store: ObjectStore, n: int, rounds: int) -> None:
    """Prints what reading ``n`` records of a store takes."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda shard: write_record(store, record(shard, n)), range(n)))
    times: dict[str, list[float]] = {"serial": [], "at once": [], "known": []}
    for _ in range(rounds):
        found, serial = timed(lambda: {shard: read_record(store, RUN, shard, n) for shard in listed(store)})
        again, at_once = timed(lambda: finished_shards(store, RUN, n))
        assert found == again
        _, known = timed(lambda: finished_shards(store, RUN, n, found))  # noqa: B023
        for way, seconds in zip(times, (serial, at_once, known), strict=True):
            times[way].append(seconds)
    ratios = [a / b for a, b in zip(times["serial"], times["at once"], strict=True)]
    print(
        f"{name}, {n} records: "
        + ", ".join(f"{way} {statistics.median(each):.2f} s" for way, each in times.items())
        + f"; at once {statistics.median(ratios):.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f})"
    )


def listed(store: ObjectStore) -> list[int]:
    """Returns the shards that have records."""
    return [int(found.key.rsplit("/", 1)[-1].removesuffix(".json")) for found in store.list(f"runs/{RUN}/shards/")]


def record(shard: int, n: int) -> CompletionRecord:
    """Returns a record of the usual size."""
    part = ObjectRef(relpath=f"manifest/part-{shard:05d}.parquet", md5="0" * 32, size=40_000)
    tar = ObjectRef(relpath=f"shards/shard-{shard:05d}.tar", md5="1" * 32, size=4_000_000)
    counts = Counts(requested=64, accepted=60, rejected={"duplicate:release": 4})
    return CompletionRecord(run_id=RUN, shard=shard, n_shards=n, tar=tar, manifest=part, rejected=part, counts=counts)


def timed(call: Any) -> tuple[Any, float]:
    """Returns what a call returns and its seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


if __name__ == "__main__":
    app()
