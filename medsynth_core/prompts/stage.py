"""The prompts stage: vocabulary in, accepted and rejected prompts with their accounting out."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.config import Paths
from medsynth_core.errors import ModelOutputError
from medsynth_core.progress import Progress
from medsynth_core.prompts.account import Account, Budget
from medsynth_core.prompts.adherence import adherence_problem
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.plan import PromptPlan, describe
from medsynth_core.prompts.providers import Provider
from medsynth_core.prompts.quotas import targets_with_quotas
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.settings import PROVIDERS, PromptsParams
from medsynth_core.prompts.similarity import SeenTexts, distinct_ngrams
from medsynth_core.prompts.writing import Written, have_written, plan_key, rejections
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.vocabulary.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_FINDING = pa.struct(
    [("pathology", pa.string()), ("anatomy", pa.string()), ("side", pa.string()), ("severity", pa.string())]
)
PROMPTS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("pathology", pa.list_(pa.string())),
        ("anatomy", pa.list_(pa.string())),
        ("findings", pa.list_(_FINDING)),
        ("view", pa.string()),
        ("provider", pa.string()),
        ("attempts", pa.int32()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("findings", pa.list_(_FINDING)),
        ("reason", pa.string()),
        ("attempts", pa.int32()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True)
class PromptsReport:
    """requested = accepted + sum(rejected), rejected by reason (contract C6).

    Attributes:
        input_tokens, output_tokens: of all drafts of these prompts, those that were rejected included.
        spent_tokens, spent_usd: noted for this plan over all its runs; drafts that an earlier plan paid cost nothing.
        unanswered_calls: sent without an answer; counted in ``spent`` with their bound, since they may have been paid.
        distinct_2, distinct_3: share of word 2- and 3-grams of the accepted texts that are different ones.
        pathologies: requested, by name.
    """

    provider: str
    requested: int
    accepted: int
    rejected: dict[str, int]
    input_tokens: int
    output_tokens: int
    spent_tokens: int
    spent_usd: float
    unanswered_calls: int
    distinct_2: float
    distinct_3: float
    pathologies: dict[str, int]


def plan(params: PromptsParams, paths: Paths) -> PromptPlan:
    """Returns what ``run`` will ask for and about what it will cost; asks nothing.

    Raises:
        InputError: there is no vocabulary.
        ConfigError: a target is unknown.
    """
    vocabulary = Vocabulary.load(paths["vocabulary"] / "vocabulary.json")
    requests = _requests(params, vocabulary)
    return describe(requests, vocabulary, params.prompts)


def run(params: PromptsParams, paths: Paths, progress: Progress) -> PromptsReport:
    """Samples requests, has them written, checks adherence and writes the prompts.

    A text that fails is written again with the reason, up to ``prompts.max_attempts`` times, then rejected. Answers
    are kept in ``paths.prompt_ledger`` as they come, so a run that ends early goes on from there.

    Raises:
        InputError: there is no vocabulary, or no local model.
        ConfigError: a target is unknown, the provider lacks a key, or its server refuses it.
        BudgetError: the budget is used up.
        TransientError: the provider's server stays unreachable.
        NotReadyError: it needs longer than this run waits.
        ModelOutputError: no prompt at all was accepted.
    """
    vocabulary = Vocabulary.load(paths["vocabulary"] / "vocabulary.json")
    requests = _requests(params, vocabulary)
    planned = describe(requests, vocabulary, params.prompts)
    name, settings = params.prompts.provider, params.prompts.settings
    provider: Provider = PROVIDERS.open(name, settings, vocabulary, params.seed, params.device)
    budget: Budget = PROVIDERS.ask(name, "budget", settings, default=Budget())
    if planned.calls:
        log.info("prompts: %s", planned.cost)
    ledger = Ledger(paths.prompt_ledger if provider.keeps else None)
    try:
        account = Account(ledger, plan_key(provider, params.seed, requests), budget)
        seen = SeenTexts(params.prompts.max_similarity)
        written = have_written(
            requests,
            provider,
            account,
            lambda text, request: _judge(text, request, seen),
            params.seed,
            params.prompts.max_attempts,
            progress,
        )
        spent_tokens, spent_usd = ledger.spent(account.plan)
        unanswered = ledger.unsettled(account.plan)
    finally:
        ledger.close()
    accepted = [w for w in written if w.accepted]
    if not accepted:
        raise ModelOutputError(
            f"provider {provider.name}: none of {len(requests)} prompts was accepted ({written[0].problem})"
        )
    report = PromptsReport(
        provider=provider.name,
        requested=len(requests),
        accepted=len(accepted),
        rejected=rejections(written),
        input_tokens=sum(w.usage.input_tokens for w in written),
        output_tokens=sum(w.usage.output_tokens for w in written),
        spent_tokens=spent_tokens,
        spent_usd=round(spent_usd, 6),
        unanswered_calls=unanswered,
        distinct_2=round(distinct_ngrams((w.text for w in accepted), 2), 4),
        distinct_3=round(distinct_ngrams((w.text for w in accepted), 3), 4),
        pathologies=planned.pathologies,
    )
    with replace_directory(paths["prompts"]) as folder:
        rows = [_accepted_row(w, provider.name) for w in accepted]
        pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA), folder / "prompts.parquet")
        rows = [_rejected_row(w) for w in written if not w.accepted]
        pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA), folder / "rejected.parquet")
        for name, about in (("account.json", report), ("plan.json", planned)):
            (folder / name).write_text(json.dumps(asdict(about), indent=2) + "\n", "utf-8")
    return report


def _requests(params: PromptsParams, vocabulary: Vocabulary) -> list[PromptRequest]:
    settings = params.prompts.model_copy(update={"targets": targets_with_quotas(params, vocabulary)})
    return sample_requests(vocabulary, settings, params.view, params.seed)


def _judge(text: str, request: PromptRequest, seen: SeenTexts) -> str | None:
    problem = adherence_problem(text, request)
    if problem is None:
        nearest = seen.nearest(text)
        if nearest is not None:
            return f"duplicate: {nearest[1]:.0%} of it was written for another request already"
        seen.add(request.prompt_id, text)
    return problem


def _accepted_row(written: Written, provider: str) -> dict[str, object]:
    asked = written.request.condition
    return _row(written) | {
        "pathology": asked.pathology,
        "anatomy": asked.anatomy,
        "view": asked.view,
        "provider": provider,
    }


def _rejected_row(written: Written) -> dict[str, object]:
    return _row(written) | {"reason": written.problem}


def _row(written: Written) -> dict[str, object]:
    return {
        "prompt_id": written.request.prompt_id,
        "text": written.text,
        "findings": list(written.request.condition.findings),
        "attempts": written.attempts,
        "input_tokens": written.usage.input_tokens,
        "output_tokens": written.usage.output_tokens,
    }
