"""Commands of a run that lives in the store: ``plan`` writes it there, ``work`` makes its shards, ``status`` says how
far it is."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsynth_core.cli.options import Overrides, Workspace
from medsynth_core.config import Device
from medsynth_core.errors import ConfigError

if TYPE_CHECKING:
    from medsynth_core.storage.store import ObjectStore
    from medsynth_core.synthesis.status import RunStatus

SOME_FAILED = 16
"""Exit code: nothing is left to do, and not every shard could be made."""
_WATCH_S = 5.0

Url = Annotated[str, typer.Argument(help="The store: a folder or s3://bucket/prefix.")]
Run = Annotated[str, typer.Argument(help="The run's id, as `medsynth plan` says it.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="Of an S3-compatible server.")]
Region = Annotated[str | None, typer.Option(help="Of the bucket.")]


def plan(
    workspace: Workspace = Path(),
    overrides: Overrides = None,
) -> None:
    """Write a run to the store: its plan, prompts, models and filters, for `medsynth work` anywhere. When all is made,
    `medsynth run` goes on with it."""
    from medsynth_core.logs import log_to_stderr
    from medsynth_core.storage.store import open_store
    from medsynth_core.synthesis import stage
    from medsynth_core.synthesis.settings import SynthesisParams
    from medsynth_core.workspace.check import check
    from medsynth_core.workspace.lock import at_work
    from medsynth_core.workspace.params import load_config
    from medsynth_core.workspace.stages import workspace_paths

    log_to_stderr()
    root = workspace.resolve()
    with at_work(root):
        config = load_config(root / "params.yaml", overrides or ())
        check(config, root, ["synthesis"])
        store = open_store(config.store, root)
        store.check_writable()
        params, paths = SynthesisParams.of(config), workspace_paths(root, config)
        found = stage.publish_round(params, paths, store)
    print(f"{found.plan.n_shards} shards, {len(found.missing)} missing")
    print(f"medsynth work {store.url} {found.plan.run_id}")


def work(
    url: Url,
    run: Run,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make the shards of part I of N first; I from 0.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Shards at a time.")] = 2,
    device: Annotated[Device, typer.Option(help="Where models run.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Folder for models, which workers may share.", show_default="~/.cache/medsynth")
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that shards in hand have after SIGTERM.")] = 25.0,
    lost_after: Annotated[
        float, typer.Option(min=1, help="Seconds after which an attempt counts as lost of which nothing is heard.")
    ] = 600.0,
    endpoint_url: Endpoint = None,
    region: Region = None,
) -> None:
    """Make the missing shards of a run, anywhere: nothing is needed but its store.

    Exit codes: 0 nothing is left; 15 the run is of another version of medsynth; 16 some shards couldn't be made;
    128 + n stopped by signal n; others as of every command.
    """
    from medsynth_core.logs import log_to_stderr
    from medsynth_core.synthesis.stage import open_published
    from medsynth_core.synthesis.work import Work, model_cache

    log_to_stderr()
    store = _store(url, endpoint_url, region)
    mine = _part(part)
    worker, what = open_published(store, run, cache or model_cache(), device)
    job = Work(worker.make, what, store, part=mine, in_flight=in_flight, lost_after_s=lost_after)
    asked: list[int] = []

    def stop(number: int, _: Any) -> None:
        if not asked:
            asked.append(number)
            job.stop()
            threading.Thread(target=_drop, args=(job, grace, 128 + number), daemon=True).start()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    report = job.run()
    print(f"{report.made} made, {report.missing} of {what.n_shards} missing")
    for shard, why in report.failed.items():
        print(f"shard {shard} failed: {why}")
    for shard in report.aside:
        print(f"shard {shard} was set aside: its workers were lost with it")
    if report.missing and asked:
        raise typer.Exit(128 + asked[0])
    raise typer.Exit(SOME_FAILED if report.failed or report.aside else 0)


def _drop(job: Any, grace: float, code: int) -> None:
    """Ends the process when the time to finish is over."""
    time.sleep(grace)
    job.drop()
    os._exit(code)


def status(
    url: Url,
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, one object a look.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 5 s until nothing is missing.")] = False,
    endpoint_url: Endpoint = None,
    region: Region = None,
) -> None:
    """Say how far a run in the store is: shards, images by what became of them, pace, time left."""
    from rich.console import Console
    from rich.live import Live

    from medsynth_core.cli.tables import status_table
    from medsynth_core.synthesis.status import status_of

    store = _store(url, endpoint_url, region)

    def looks() -> Iterator[RunStatus]:
        while True:
            yield (found := status_of(store, run))
            if not watch or not found.missing:
                return
            time.sleep(_WATCH_S)

    if as_json:
        for found in looks():
            print(json.dumps(dataclasses.asdict(found)), flush=True)
        return
    with Live(console=Console()) as live:
        for found in looks():
            live.update(status_table(found))


def _store(url: str, endpoint_url: str | None, region: str | None) -> ObjectStore:
    from medsynth_core.storage.settings import StoreConfig
    from medsynth_core.storage.store import open_store

    return open_store(StoreConfig(url=url, endpoint_url=endpoint_url, region=region), Path.cwd())


def _part(text: str | None) -> tuple[int, int] | None:
    """Returns which part of how many; None where none was named.

    Raises:
        ConfigError: it isn't I/N with I < N.
    """
    if text is None:
        return None
    which, _, of = text.partition("/")
    if which.isdigit() and of.isdigit() and int(which) < int(of):
        return int(which), int(of)
    raise ConfigError(f"--part {text}: expected I/N with I from 0 and below N, as 0/10")
