"""Rounds of generating: the planned samples of every prompt, then more of those whose quotas aren't met.

A round's plan follows from the parameters and the completion records of the rounds before, so that every process
arrives at the same one, however often it was interrupted. Each plan stands at ``runs/<run_id>/plan.json``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from medsynth_core.config import Config, Paths
from medsynth_core.errors import ConfigError, IncompleteRunError
from medsynth_core.models.artifact import model_digests
from medsynth_core.prompts.quotas import parse_quotas, tally
from medsynth_core.quality.alike import CopyBounds
from medsynth_core.quality.release_copies import find_release_copies
from medsynth_core.storage.completion import CompletionRecord, finished_shards
from medsynth_core.storage.content import get_content
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.manifest import read_parquet
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import ShardPlan, plan_shards, spec_hash
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.vocabulary.vocabulary import Vocabulary

_COLUMNS = ("image_id", "prompt_id", "labels", "view")


@dataclass(frozen=True)
class Round:
    """One round and what of it is done."""

    plan: ShardPlan
    records: dict[int, CompletionRecord]

    @property
    def missing(self) -> list[int]:
        return [shard for shard in range(self.plan.n_shards) if shard not in self.records]


def read_rounds(
    config: Config, paths: Paths, store: ObjectStore, copy_bounds: CopyBounds | None, before: Sequence[Round] = ()
) -> list[Round]:
    """Returns the rounds up to the first that isn't finished; all are when the last one is.

    Args:
        copy_bounds: distances at which an image is a copy of an earlier one; None lets copies pass.
        before: what was returned last; records that are in it aren't read again.

    Raises:
        InputError: prompts or models are missing, or there is no such parent.
        ConfigError: a quota is no finding, or no prompt asks for it.
        IncompleteRunError: a quota can't be met within ``release.max_attempts``.
    """
    prompts = read_prompts(paths.prompts)
    parent = config.release.parent
    dir_md5 = read_entry(store, parent).dir_md5 if parent is not None else None
    spec = spec_hash([p.identity() for p in prompts], model_digests(config, paths), config.synthesis, dir_md5)
    wanted = _Wanted(config, paths, store, prompts, copy_bounds) if config.release.quotas else None
    samples = [(0, config.synthesis.samples_per_prompt)] * len(prompts)
    known = {each.plan.run_id: each.records for each in before}
    rounds: list[Round] = []
    while samples:
        plan = plan_shards(spec, [p.prompt_id for p in prompts], samples, config.synthesis, config.quality)
        rounds.append(Round(plan, finished_shards(store, plan.run_id, plan.n_shards, known.get(plan.run_id))))
        if wanted is None or rounds[-1].missing:
            break
        samples = wanted.next_samples(rounds)
    return rounds


def write_plan(store: ObjectStore, plan: ShardPlan) -> None:
    """Writes what a round asks for, unless it stands there."""
    store.put(_plan_key(plan.run_id), json.dumps(asdict(plan)).encode(), if_absent=True)


def read_plan(store: ObjectStore, run_id: str) -> ShardPlan:
    """Returns the plan of a round that ``write_plan`` wrote."""
    about = json.loads(store.get(_plan_key(run_id)))
    samples = tuple((first, n) for first, n in about.pop("samples"))
    return ShardPlan(**{**about, "prompt_ids": tuple(about["prompt_ids"]), "samples": samples})


def _plan_key(run_id: str) -> str:
    return f"runs/{run_id}/plan.json"


class _Wanted:
    """The quotas, and which prompts can fill them."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        store: ObjectStore,
        prompts: Sequence[PromptRow],
        copy_bounds: CopyBounds | None,
    ) -> None:
        vocabulary = Vocabulary.load(paths.vocabulary / "vocabulary.json")
        self._quotas = parse_quotas(config.release.quotas, vocabulary)
        self._askers = [[i for i, p in enumerate(prompts) if q.counts(p.findings, p.view)] for q in self._quotas]
        self._index = {prompt.prompt_id: i for i, prompt in enumerate(prompts)}
        self._max_attempts = config.release.max_attempts
        self._store, self._bounds = store, copy_bounds
        self._llm = model_digests(config, paths)["llm"]
        self._parent = config.release.parent
        rows = parent_rows(store, self._parent, ["labels", "view"]) if self._parent is not None else []
        self._inherited = tally(self._quotas, chain.from_iterable(part.to_pylist() for part in rows))
        for quota, askers, there in zip(self._quotas, self._askers, self._inherited, strict=True):
            if there < quota.n and not askers:
                raise ConfigError(
                    f"release.quotas: no prompt asks for {quota.text!r} (synthesis.view is {config.synthesis.view}); "
                    f"correct it, or run `medsynth prompts` again"
                )

    def next_samples(self, rounds: Sequence[Round]) -> list[tuple[int, int]]:
        """Returns which samples of each prompt the next round makes, (first, how many); none when all quotas are met.

        Raises:
            IncompleteRunError: one can't be met.
        """
        records = [record for each in rounds for _, record in sorted(each.records.items())]
        rows = list(self._accepted(records))
        counts = tally(self._quotas, rows)
        accepted = Counter(self._index[row["prompt_id"]] for row in rows)
        made = [sum(n) for n in zip(*([n for _, n in each.plan.samples] for each in rounds), strict=True)]
        more = [0] * len(made)
        short = []
        for quota, askers, inherited, found in zip(self._quotas, self._askers, self._inherited, counts, strict=True):
            lacking = quota.n - inherited - found
            if lacking <= 0:
                continue
            tried, kept = sum(made[i] for i in askers), sum(accepted[i] for i in askers)
            most = self._max_attempts * (quota.n - inherited) - tried
            if most <= 0:
                short.append(f"{quota.text} {inherited + found} of {quota.n} after {tried} made")
                continue
            wanted = min(most, math.ceil(lacking * (tried + 2) / (kept + 1)))
            for place, prompt in enumerate(askers):
                more[prompt] = max(more[prompt], (wanted + len(askers) - 1 - place) // len(askers))
        if short:
            raise IncompleteRunError(
                f"release.quotas can't be met: {'; '.join(short)} ({_rejections(records)}); lower them, raise "
                f"release.max_attempts={self._max_attempts}, loosen quality, or train longer"
            )
        return list(zip(made, more, strict=True)) if any(more) else []

    def _accepted(self, records: Sequence[CompletionRecord]) -> Iterator[dict[str, Any]]:
        """Yields the rows of the images that the release will have, without copies across shards."""
        copies = find_release_copies(records, self._store, self._parent, self._llm, self._bounds)
        for record in records:
            part = read_parquet(get_content(self._store, record.manifest), _COLUMNS)
            yield from (row for row in part.to_pylist() if row["image_id"] not in copies)


def _rejections(records: Sequence[CompletionRecord]) -> str:
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.counts.rejected)
    return ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "nothing was rejected before"
