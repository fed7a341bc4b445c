"""The synthesis stage: prompts and models in, finished shards in the store and their list on disk out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from operator import add

from medsynth_core.config import Config, Paths
from medsynth_core.errors import IncompleteRunError
from medsynth_core.progress import Progress
from medsynth_core.quality.agreement import AgreementFilter
from medsynth_core.quality.calibration import read_bound
from medsynth_core.quality.degenerate import DegenerateFilter
from medsynth_core.quality.duplicate import TrainingCopyFilter, load_reference
from medsynth_core.quality.filters import Filter
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.completion import Counts, finished_shards
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import ShardPlan, plan_shards, spec_hash
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.synthesiser import Synthesiser, model_digests, models_folder
from medsynth_core.synthesis.worker import ShardWorker

STAGE_VERSION = 3


@dataclass(frozen=True)
class SynthesisReport:
    """Totals of a synthesis run; ``made`` shards are new, ``resumed`` ones stood in the store."""

    run_id: str
    made: int
    resumed: int
    counts: Counts


def plan(config: Config, paths: Paths) -> ShardPlan:
    """Returns the shard plan of the workspace's prompts and models.

    Raises:
        InputError: prompts or models are missing.
    """
    prompts = read_prompts(paths.prompts)
    spec = spec_hash([p.identity() for p in prompts], model_digests(config, paths), config.synthesis)
    return plan_shards(spec, [p.prompt_id for p in prompts], config.synthesis, config.quality)


def open_worker(config: Config, paths: Paths, store: ObjectStore) -> ShardWorker:
    """Returns a worker with its models and filters loaded.

    Raises:
        InputError: prompts or models are missing.
    """
    synthesiser = Synthesiser.load(config, paths)
    limits = bounds(config, paths)
    return ShardWorker(
        config,
        plan(config, paths),
        read_prompts(paths.prompts),
        synthesiser,
        model_digests(config, paths),
        _filters(config, paths, synthesiser, limits),
        limits["copy"] if "duplicate" in config.quality.enabled else None,
        store,
    )


def missing_shards(plan: ShardPlan, store: ObjectStore) -> list[int]:
    """Returns the shards without a completion record."""
    done = finished_shards(store, plan.run_id, plan.n_shards)
    return [shard for shard in range(plan.n_shards) if shard not in done]


def run(config: Config, paths: Paths, store: ObjectStore, progress: Progress) -> SynthesisReport:
    """Makes the missing shards, ``runner.in_flight`` at a time, and writes ``paths.synthesis``.

    One shard in work is enough to keep the machine busy until its upload; a second fills that time.

    Raises:
        InputError: prompts or models are missing.
        StoreError, TransientError: the store fails.
    """
    store.check_writable()
    worker = open_worker(config, paths, store)
    missing = missing_shards(worker.plan, store)
    standing = worker.plan.n_shards - len(missing)
    progress(standing, worker.plan.n_shards)
    with ThreadPoolExecutor(config.runner.in_flight, thread_name_prefix="shard") as pool:
        shards = [pool.submit(worker.make, shard) for shard in missing]
        try:
            for done, shard in enumerate(as_completed(shards), 1):
                shard.result()
                progress(standing + done, worker.plan.n_shards)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return collect(config, paths, store, made=len(missing))


def collect(config: Config, paths: Paths, store: ObjectStore, made: int) -> SynthesisReport:
    """Writes ``paths.synthesis`` from the completion records, never from memory.

    Raises:
        IncompleteRunError: a shard has no record.
    """
    plan_ = plan(config, paths)
    records = finished_shards(store, plan_.run_id, plan_.n_shards)
    missing = [shard for shard in range(plan_.n_shards) if shard not in records]
    if missing:
        raise IncompleteRunError(
            f"{len(missing)} of {plan_.n_shards} shards are missing (first: {missing[0]}); run again to make them"
        )
    ordered = tuple(records[shard] for shard in range(plan_.n_shards))
    counts = reduce(add, (record.counts for record in ordered))
    with replace_directory(paths.synthesis) as folder:
        ShardList(
            spec_hash=plan_.spec_hash,
            run_id=plan_.run_id,
            model_digests=model_digests(config, paths),
            bounds=bounds(config, paths),
            shards=ordered,
            counts=counts,
        ).save(folder)
    return SynthesisReport(plan_.run_id, made, plan_.n_shards - made, counts)


def _filters(config: Config, paths: Paths, synthesiser: Synthesiser, limits: Mapping[str, float]) -> list[Filter]:
    quality = config.quality
    available: Iterable[Filter] = (
        DegenerateFilter(quality),
        TrainingCopyFilter(load_reference(models_folder(config, paths) / "llm"), limits["copy"]),
        AgreementFilter(synthesiser.agreement, limits["agreement"]),
    )
    return [each for each in available if each.name in quality.enabled]


def bounds(config: Config, paths: Paths) -> dict[str, float]:
    """Returns the filters' bounds: the configured quantiles of what real held-out data scored.

    Raises:
        InputError: a model has no scores stored with it.
    """
    folder, quality = models_folder(config, paths), config.quality
    return {
        "agreement": read_bound(folder / "alignment", "agreement", quality.agreement_quantile, without=-1.0),
        "copy": read_bound(folder / "llm", "copy", quality.copy_quantile, without=0.0),
    }
