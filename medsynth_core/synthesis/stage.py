"""The synthesis stage: prompts and models in, finished shards in the store and their list on disk out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
import torch

from medsynth_core.config import Config, Paths
from medsynth_core.errors import IncompleteRunError
from medsynth_core.models.artifact import model_digests, models_folder
from medsynth_core.models.judge import Judge
from medsynth_core.progress import Progress
from medsynth_core.quality.agreement import AgreementFilter
from medsynth_core.quality.alike import CopyBounds
from medsynth_core.quality.anatomy import Anatomy, AnatomyFilter
from medsynth_core.quality.calibration import read_bound
from medsynth_core.quality.degenerate import DegenerateFilter
from medsynth_core.quality.duplicate import TrainingCopyFilter, load_reference
from medsynth_core.quality.embedding import Embedding
from medsynth_core.quality.filters import Filter
from medsynth_core.quality.labels import JUDGE, LabelFilter
from medsynth_core.quality.niqe import NaturalnessFilter, NaturalnessModel
from medsynth_core.quality.noise import NoiseFilter
from medsynth_core.quality.organs import OrganFilter, UsualOrgans
from medsynth_core.quality.registration import Registration
from medsynth_core.quality.sharpness import SharpnessFilter
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.storage.completion import Counts
from medsynth_core.storage.run import ShardList
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.rounds import Round, read_rounds, write_plan
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.synthesis.worker import ShardWorker

STAGE_VERSION = 5


@dataclass(frozen=True)
class SynthesisReport:
    """Totals of a synthesis run; ``made`` shards are new, ``resumed`` ones stood in the store."""

    spec_hash: str
    rounds: int
    made: int
    resumed: int
    counts: Counts


def rounds(config: Config, paths: Paths, store: ObjectStore, before: Sequence[Round] = ()) -> list[Round]:
    """Returns the rounds of generating up to the first unfinished one, whose plan is written to the store.

    Args:
        before: what was returned last; records that are in it aren't read again.

    Raises:
        InputError: prompts or models are missing, or there is no such parent.
        ConfigError, IncompleteRunError: the quotas can't be met.
    """
    found = read_rounds(config, paths, store, _copy_bounds(config, paths), before)
    if found[-1].missing:
        write_plan(store, found[-1].plan)
    return found


def open_worker(config: Config, paths: Paths, store: ObjectStore) -> ShardWorker:
    """Returns a worker with its models and filters loaded.

    Raises:
        InputError: prompts or models are missing.
    """
    synthesiser = Synthesiser.load(config, paths)
    embedding = load_embedding(config, paths, synthesiser)
    return ShardWorker(
        config,
        read_prompts(paths.prompts),
        synthesiser,
        model_digests(config, paths),
        load_filters(config, paths, synthesiser, embedding, bounds(config, paths)),
        _copy_bounds(config, paths),
        embedding,
        store,
    )


def run(config: Config, paths: Paths, store: ObjectStore, progress: Progress) -> SynthesisReport:
    """Makes the missing shards, ``runner.in_flight`` at a time, round by round, and writes ``paths.synthesis``.

    One shard in work is enough to keep the machine busy until its upload; a second fills that time.

    Raises:
        InputError: prompts or models are missing, or there is no such parent.
        ConfigError, IncompleteRunError: the quotas can't be met.
        StoreError, TransientError: the store fails.
    """
    store.check_writable()
    worker, made, found = None, 0, rounds(config, paths, store)
    while (last := found[-1]).missing:
        worker = worker or open_worker(config, paths, store)
        _make(worker, last, config.runner.in_flight, progress)
        made += len(last.missing)
        found = rounds(config, paths, store, found)
    return collect(config, paths, store, made)


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


def collect(config: Config, paths: Paths, store: ObjectStore, made: int) -> SynthesisReport:
    """Writes ``paths.synthesis`` from the completion records, never from memory.

    Raises:
        IncompleteRunError: a shard has no record, or the quotas aren't met.
    """
    found = rounds(config, paths, store)
    missing = found[-1].missing
    if missing:
        raise IncompleteRunError(
            f"{len(missing)} of {found[-1].plan.n_shards} shards are missing (first: {missing[0]}); "
            f"run again to make them"
        )
    ordered = tuple(record for each in found for _, record in sorted(each.records.items()))
    counts = reduce(add, (record.counts for record in ordered))
    plans = [each.plan for each in found]
    with replace_directory(paths.synthesis) as folder:
        ShardList(
            spec_hash=plans[0].spec_hash,
            run_ids=tuple(plan.run_id for plan in plans),
            parent=config.release.parent,
            model_digests=model_digests(config, paths),
            bounds=bounds(config, paths),
            shards=ordered,
            counts=counts,
        ).save(folder)
    return SynthesisReport(plans[0].spec_hash, len(found), made, len(ordered) - made, counts)


def _copy_bounds(config: Config, paths: Paths) -> CopyBounds | None:
    return CopyBounds.of(bounds(config, paths)) if "duplicate" in config.quality.enabled else None


def load_embedding(config: Config, paths: Paths, synthesiser: Synthesiser) -> Embedding:
    """Returns the labelling judge that the language model brings along, on its device, and what it saw in training
    images.

    Raises:
        InputError: they aren't there.
    """
    folder = models_folder(config, paths) / "llm"
    judge = Judge.load(folder / JUDGE).to(synthesiser.llm.device, memory_format=torch.channels_last)
    return Embedding.load(folder, judge)


def load_filters(
    config: Config, paths: Paths, synthesiser: Synthesiser, embedding: Embedding, limits: Mapping[str, float]
) -> list[Filter]:
    """Returns the enabled filters, cheap ones first, with their bounds ``limits``.

    Raises:
        InputError: what they compare with isn't stored with the models.
    """
    folder = models_folder(config, paths) / "llm"
    training = load_reference(folder)
    judge, organs = embedding.judge, []
    if judge.segmenter is not None:
        segment = partial(synthesiser.organs, judge.segmenter)
        organs = [OrganFilter(segment, UsualOrgans.load(folder), limits["organs"])]
    available: Iterable[Filter] = (
        DegenerateFilter(config.quality.min_contrast, limits["clipped"]),
        SharpnessFilter(limits["sharpness"]),
        NoiseFilter(limits["noise"]),
        AnatomyFilter(Anatomy(training), limits["anatomy"]),
        *organs,
        NaturalnessFilter(NaturalnessModel.load(folder), limits["niqe"]),
        LabelFilter(partial(synthesiser.look, embedding), judge.labels, limits["labels"]),
        AgreementFilter(synthesiser.agreement, limits["agreement"]),
        TrainingCopyFilter(Registration(training), limits["training_copy"]),
    )
    return [each for each in available if each.name in config.quality.enabled]


def bounds(config: Config, paths: Paths) -> dict[str, float]:
    """Returns the filters' bounds: the configured quantiles of what real held-out data scored.

    Raises:
        InputError: a model has no scores stored with it.
    """
    folder, quality = models_folder(config, paths), config.quality
    llm, highest = folder / "llm", float(np.finfo(np.float32).max)
    return {
        "clipped": read_bound(llm, "clipped", 1 - quality.clipped_quantile, 1.0, quality.margin),
        "sharpness": read_bound(llm, "sharpness", quality.sharpness_quantile, 0.0, quality.margin),
        "noise": read_bound(llm, "noise", 1 - quality.noise_quantile, highest, quality.margin),
        "anatomy": read_bound(llm, "anatomy", 1 - quality.anatomy_quantile, highest, quality.margin),
        "organs": read_bound(llm, "organs", 1 - quality.organs_quantile, highest, quality.margin),
        "niqe": read_bound(llm, "niqe", 1 - quality.niqe_quantile, highest, quality.margin),
        "labels": read_bound(llm, "labels", 1 - quality.labels_quantile, highest, quality.margin),
        "training_copy": read_bound(llm, "training_copy", quality.training_copy_quantile, without=0.0),
        "copy": read_bound(llm, "copy", quality.copy_quantile, without=0.0),
        "copy_features": read_bound(llm, "copy_features", quality.copy_quantile, without=0.0),
        "agreement": read_bound(folder / "alignment", "agreement", quality.agreement_quantile, without=-1.0),
    }
