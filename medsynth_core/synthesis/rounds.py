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

from medsynth_core.config import Paths
from medsynth_core.deduplicate.release_copies import Comparison, find_release_copies
from medsynth_core.errors import ConfigError, IncompleteRunError
from medsynth_core.manifest import columns_of, read_rows
from medsynth_core.prompts.quotas import parse_quotas, tally
from medsynth_core.storage.completion import CompletionRecord, finished_shards
from medsynth_core.storage.content import get_content
from medsynth_core.storage.parent import parent_rows
from medsynth_core.storage.store import ObjectStore
from medsynth_core.synthesis.identity import RunIdentity, ShardPlan, plan_shards
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
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
    params: SynthesisParams, paths: Paths, store: ObjectStore, identity: RunIdentity, before: Sequence[Round] = ()
) -> list[Round]:
    """Returns the rounds up to the first that isn't finished; all are when the last one is.

    Args:
        before: what was returned last; records that are in it aren't read again.

    Raises:
        InputError: prompts are missing.
        ConfigError: a quota is no finding, or no prompt asks for it.
        IncompleteRunError: a quota can't be met within ``release.max_attempts``.
    """
    settings, prompts = params.synthesis, read_prompts(paths["prompts"])
    wanted = _Wanted(params, paths, store, prompts, identity) if params.quotas else None
    samples = [(0, settings.samples_per_prompt)] * len(prompts)
    known = {each.plan.run_id: each.records for each in before}
    rounds: list[Round] = []
    while samples:
        plan = plan_shards(identity, [p.prompt_id for p in prompts], samples, settings, params.split)
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
        params: SynthesisParams,
        paths: Paths,
        store: ObjectStore,
        prompts: Sequence[PromptRow],
        identity: RunIdentity,
    ) -> None:
        vocabulary = Vocabulary.load(paths["vocabulary"] / "vocabulary.json")
        self._quotas = parse_quotas(params.quotas, vocabulary)
        self._askers = [[i for i, p in enumerate(prompts) if q.counts(p.condition)] for q in self._quotas]
        self._index = {prompt.prompt_id: i for i, prompt in enumerate(prompts)}
        self._max_attempts = params.max_attempts
        self._store, self._parent = store, params.parent
        self._comparison = Comparison(identity.quality["enabled"], identity.bounds, identity.judge_sha256)
        wanted = columns_of(["labels", "view"])
        rows = parent_rows(store, self._parent, wanted) if self._parent is not None else []
        self._inherited = tally(self._quotas, chain.from_iterable(part.to_pylist() for part in rows))
        for quota, askers, there in zip(self._quotas, self._askers, self._inherited, strict=True):
            if there < quota.n and not askers:
                raise ConfigError(
                    f"release.quotas: no prompt asks for {quota.text!r} (synthesis.view is {params.synthesis.view}); "
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
                f"release.max_attempts={self._max_attempts}, loosen the filters (section quality), or train longer"
            )
        return list(zip(made, more, strict=True)) if any(more) else []

    def _accepted(self, records: Sequence[CompletionRecord]) -> Iterator[dict[str, Any]]:
        """Yields the rows of the images that the release will have, without copies across shards."""
        copies = find_release_copies(records, self._store, self._parent, self._comparison)
        for record in records:
            part = read_rows(get_content(self._store, record.manifest), _COLUMNS)
            yield from (row for row in part.to_pylist() if row["image_id"] not in copies)


def _rejections(records: Sequence[CompletionRecord]) -> str:
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.counts.rejected)
    return ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "nothing was rejected before"
