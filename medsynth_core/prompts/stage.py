"""The prompts stage: vocabulary in, accepted and rejected prompts with their accounting out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from medsynth_core.config import Config, Paths
from medsynth_core.errors import ModelOutputError
from medsynth_core.progress import Progress
from medsynth_core.prompts.adherence import adherence_problem, fold_text
from medsynth_core.prompts.providers import open_provider
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.storage.atomic import replace_directory
from medsynth_core.vocabulary.vocabulary import Vocabulary

STAGE_VERSION = 1
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
    ]
)


@dataclass(frozen=True)
class PromptsReport:
    """requested = accepted + sum(rejected), rejected by reason (contract C6)."""

    provider: str
    requested: int
    accepted: int
    rejected: dict[str, int]
    input_tokens: int
    output_tokens: int
    pathologies: dict[str, int]


@dataclass
class _Ledger:
    accepted: dict[str, dict[str, object]] = field(default_factory=dict)
    complaints: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    tokens: Counter[str] = field(default_factory=Counter)


def run(config: Config, paths: Paths, progress: Progress) -> PromptsReport:
    """Samples requests, has them written, checks adherence and writes ``paths.prompts``.

    A text that fails is written again with the reason, up to ``prompts.max_attempts`` times, then rejected.

    Raises:
        InputError: there is no vocabulary.
        ConfigError: a target term is unknown, or the provider lacks a key.
        TransientError: the provider's server stays unreachable.
        ModelOutputError: no prompt at all was accepted.
    """
    vocabulary = Vocabulary.load(paths.vocabulary / "vocabulary.json")
    requests = sample_requests(vocabulary, config.prompts, config.synthesis.view, config.seed)
    provider = open_provider(config.prompts, vocabulary, config.seed)
    ledger = _Ledger()
    pending = requests
    for attempt in range(config.prompts.max_attempts):
        complaints = [ledger.complaints.get(r.prompt_id, (None, None))[0] for r in pending]
        drafts = provider.write(pending, complaints, attempt)
        failed = []
        for request, draft in zip(pending, drafts, strict=True):
            ledger.tokens.update(input=draft.usage.input_tokens, output=draft.usage.output_tokens)
            problem = draft.problem or _problem(draft.text or "", request, ledger.texts)
            if problem is None and draft.text is not None:
                ledger.texts.add(fold_text(draft.text))
                ledger.accepted[request.prompt_id] = _row(request, draft.text, provider.name, attempt + 1) | {
                    "input_tokens": draft.usage.input_tokens,
                    "output_tokens": draft.usage.output_tokens,
                }
            else:
                ledger.complaints[request.prompt_id] = (problem or "answer: empty", draft.text or "")
                failed.append(request)
        pending = failed
        progress(len(requests) - len(pending), len(requests), f"attempt {attempt + 1}")
        if not pending:
            break
    if not ledger.accepted:
        first = next(iter(ledger.complaints.values()))[0]
        raise ModelOutputError(f"provider {provider.name}: none of {len(requests)} prompts was accepted ({first})")
    return _write(config, paths, requests, pending, ledger, provider.name)


def _problem(text: str, request: PromptRequest, texts: set[str]) -> str | None:
    problem = adherence_problem(text, request)
    if problem is None and fold_text(text) in texts:
        return "duplicate: the same text was written for another request"
    return problem


def _row(request: PromptRequest, text: str, provider: str, attempts: int) -> dict[str, object]:
    return {
        "prompt_id": request.prompt_id,
        "text": text,
        "pathology": [finding.pathology for finding in request.findings],
        "anatomy": sorted({finding.anatomy for finding in request.findings if finding.anatomy}),
        "findings": [asdict(finding) for finding in request.findings],
        "view": request.view,
        "provider": provider,
        "attempts": attempts,
    }


def _write(
    config: Config,
    paths: Paths,
    requests: list[PromptRequest],
    rejected: list[PromptRequest],
    ledger: _Ledger,
    provider: str,
) -> PromptsReport:
    reasons = Counter(ledger.complaints[r.prompt_id][0].partition(":")[0] for r in rejected)
    accepted = [ledger.accepted[r.prompt_id] for r in requests if r.prompt_id in ledger.accepted]
    pathologies = Counter(f.pathology for r in requests for f in r.findings)
    report = PromptsReport(
        provider,
        len(requests),
        len(accepted),
        dict(sorted(reasons.items())),
        ledger.tokens["input"],
        ledger.tokens["output"],
        dict(pathologies.most_common()),
    )
    rows = [
        {
            "prompt_id": r.prompt_id,
            "text": ledger.complaints[r.prompt_id][1],
            "findings": [asdict(f) for f in r.findings],
            "reason": ledger.complaints[r.prompt_id][0],
            "attempts": config.prompts.max_attempts,
        }
        for r in rejected
    ]
    with replace_directory(paths.prompts) as folder:
        pq.write_table(pa.Table.from_pylist(accepted, schema=PROMPTS_SCHEMA), folder / "prompts.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA), folder / "rejected.parquet")
        (folder / "account.json").write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
    return report
