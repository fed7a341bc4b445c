"""The synthesis stage: prompts and models in, finished shards in the store and their list on disk out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

from medsynth_core.config import Device, Paths
from medsynth_core.errors import IncompleteRunError
from medsynth_core.filters import QualityConfig
from medsynth_core.judging.calibrated import bounds_of, digest_of, judge_digest, load_chain
from medsynth_core.models.artifact import model_digests, pick_device, resolve_precision
from medsynth_core.progress import Progress
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import RunIdentity, ShardPlan, spec_hash, verdict_digest
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.published import fetched, publish, read_published
from medsynth_core.synthesis.rounds import Round, read_plan, read_rounds, write_plan
from medsynth_core.synthesis.settings import SynthesisConfig, SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.synthesis.worker import ShardWorker


@dataclass(frozen=True)
class SynthesisReport:
    """Totals of a synthesis run; ``made`` shards are new, ``resumed`` ones stood in the store."""

    spec_hash: str
    rounds: int
    made: int
    resumed: int
    counts: Counts


def identify(params: SynthesisParams, paths: Paths, store: ObjectStore) -> RunIdentity:
    """Returns what a run makes and by what it judges.

    Raises:
        InputError: prompts, models or calibrated filters are missing, or there is no such parent.
    """
    parent = read_entry(store, params.parent).dir_md5 if params.parent is not None else None
    digests, running = model_digests(paths), params.quality.running()
    prompts = [prompt.identity() for prompt in read_prompts(paths["prompts"])]
    precision = resolve_precision(params.synthesis.precision, pick_device(params.device))
    recorded, versions = params.quality.recorded(), {each.name: each.version for each in running}
    return RunIdentity(
        spec_hash(prompts, digests, params.synthesis, precision, parent),
        verdict_digest(recorded, versions, digest_of(paths["calibrate"], running, paths.digests)),
        digests,
        judge_digest(paths["calibrate"], paths.digests),
        recorded,
        bounds_of(paths["calibrate"], params.quality),
    )


def rounds(
    params: SynthesisParams, paths: Paths, store: ObjectStore, identity: RunIdentity, before: Sequence[Round] = ()
) -> list[Round]:
    """Returns the rounds of generating up to the first unfinished one, whose plan is written to the store.

    Args:
        before: what was returned last; records that are in it aren't read again.

    Raises:
        InputError: prompts are missing.
        ConfigError, IncompleteRunError: the quotas can't be met.
    """
    found = read_rounds(params, paths, store, identity, before)
    if found[-1].missing:
        write_plan(store, found[-1].plan)
    return found


def publish_round(params: SynthesisParams, paths: Paths, store: ObjectStore) -> Round:
    """Writes the round in work to the store, with all that ``medsynth work`` needs of it, and returns it.

    Raises:
        InputError: prompts, models or calibrated filters are missing, or there is no such parent.
        ConfigError, IncompleteRunError: the quotas can't be met.
        StoreError, TransientError: the store fails.
    """
    last = rounds(params, paths, store, identify(params, paths, store))[-1]
    publish_run(params, paths, store, last.plan.run_id)
    return last


def publish_run(params: SynthesisParams, paths: Paths, store: ObjectStore, run_id: str) -> None:
    """Writes to the store what ``medsynth work`` needs of a round whose plan is there.

    Raises:
        InputError: prompts, models or calibrated filters are missing, or there is no such parent.
        StoreError, TransientError: the store fails.
    """
    precision = resolve_precision(params.synthesis.precision, pick_device(params.device))
    publish(params, precision, paths, store, identify(params, paths, store), run_id)


def open_published(store: ObjectStore, run_id: str, cache: Path, device: Device) -> tuple[ShardWorker, ShardPlan]:
    """Returns a worker of a run that ``publish_round`` wrote, with its models and filters loaded, and the plan.

    Args:
        cache: a folder of this machine for models, which any number of workers may share.

    Raises:
        InputError: there is no such run.
        ForeignRunError: it is of another version of medsynth.
        CorruptObjectError: what stands in the store isn't what it should be.
        StoreError, TransientError: the store fails.
    """
    run = read_published(store, run_id)
    paths = fetched(run, store, cache)
    params = SynthesisParams(
        synthesis=SynthesisConfig.model_validate(run.synthesis),
        quality=QualityConfig.model_validate(run.quality),
        split=run.split,
        parent=None,  # what a round adds to, and how many it still needs, is in its plan
        quotas={},
        max_attempts=1,
        in_flight=1,
        device=device,
    )
    return open_worker(params, paths, store, RunIdentity(**run.identity)), read_plan(store, run_id)


def open_worker(params: SynthesisParams, paths: Paths, store: ObjectStore, identity: RunIdentity) -> ShardWorker:
    """Returns a worker with its models and filters loaded.

    Raises:
        InputError: prompts, models or calibrated filters are missing.
    """
    synthesiser = Synthesiser.load(params, paths)
    return ShardWorker(
        identity,
        params.synthesis,
        params.split,
        read_prompts(paths["prompts"]),
        synthesiser,
        load_chain(paths["calibrate"], params.quality, identity.bounds, synthesiser.alignment, synthesiser.image_size),
        store,
    )


def run(params: SynthesisParams, paths: Paths, store: ObjectStore, progress: Progress) -> SynthesisReport:
    """Makes the missing shards, ``runner.in_flight`` at a time, round by round, and writes their list.

    One shard in work is enough to keep the machine busy until its upload; a second fills that time.

    Raises:
        InputError: prompts, models or calibrated filters are missing, or there is no such parent.
        ConfigError, IncompleteRunError: the quotas can't be met.
        StoreError, TransientError: the store fails.
    """
    store.check_writable()
    identity = identify(params, paths, store)
    worker, made, found = None, 0, rounds(params, paths, store, identity)
    while (last := found[-1]).missing:
        worker = worker or open_worker(params, paths, store, identity)
        _make(worker, last, params.in_flight, progress)
        made += len(last.missing)
        found = rounds(params, paths, store, identity, found)
    return collect(params, paths, store, identity, made)


def _make(worker: ShardWorker, todo: Round, in_flight: int, progress: Progress) -> None:
    total, missing = todo.plan.n_shards, todo.missing
    standing = total - len(missing)
    progress(standing, total)
    with ThreadPoolExecutor(in_flight, thread_name_prefix="shard") as pool:
        shards = [pool.submit(worker.make, todo.plan, shard) for shard in missing]
        try:
            for done, shard in enumerate(as_completed(shards), 1):
                shard.result()
                progress(standing + done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def collect(
    params: SynthesisParams, paths: Paths, store: ObjectStore, identity: RunIdentity, made: int
) -> SynthesisReport:
    """Writes the list of shards from the completion records, never from memory.

    Raises:
        IncompleteRunError: a shard has no record, or the quotas aren't met.
    """
    found = rounds(params, paths, store, identity)
    missing = found[-1].missing
    if missing:
        raise IncompleteRunError(
            f"{len(missing)} of {found[-1].plan.n_shards} shards are missing (first: {missing[0]}); "
            f"run again to make them"
        )
    ordered = tuple(record for each in found for _, record in sorted(each.records.items()))
    counts = reduce(add, (record.counts for record in ordered))
    with replace_directory(paths["synthesis"]) as folder:
        ShardList(
            spec_hash=identity.spec_hash,
            run_ids=tuple(each.plan.run_id for each in found),
            parent=params.parent,
            model_digests=identity.model_digests,
            judge_sha256=identity.judge_sha256,
            quality=identity.quality,
            bounds=identity.bounds,
            shards=ordered,
            counts=counts,
        ).save(folder)
    return SynthesisReport(identity.spec_hash, len(found), made, len(ordered) - made, counts)
