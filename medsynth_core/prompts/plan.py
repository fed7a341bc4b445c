"""What a set of requests will hold and cost, known before any call is paid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medsynth_core.prompts.account import Prices
from medsynth_core.prompts.messages import messages_for, told_vocabulary
from medsynth_core.prompts.providers.completion import call_bound
from medsynth_core.prompts.records import Assignment, PromptRequest, Usage
from medsynth_core.prompts.settings import PromptsConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary

_BYTES_A_TOKEN = 4.0
_TOKENS_A_TEXT = 60
_ASKED_AGAIN = 1.2
"""Calls for each that would do if every answer were accepted: an assumption, said to be one."""


@dataclass(frozen=True)
class PromptPlan:
    """What will be asked for.

    Attributes:
        requested: prompts; ``normal`` of them without a finding.
        findings_a_prompt: prompts by their number of findings.
        pathologies, sides, severities, places: findings by each.
        corpus_share, plan_share: of each pathology among all findings.
        calls, input_tokens, output_tokens, usd: expected; ``usd`` is None without prices, and all are 0 for a provider
            without calls.
    """

    requested: int
    normal: int
    findings_a_prompt: dict[str, int]
    pathologies: dict[str, int]
    sides: dict[str, int]
    severities: dict[str, int]
    places: dict[str, int]
    corpus_share: dict[str, float]
    plan_share: dict[str, float]
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None

    @property
    def cost(self) -> str:
        """What it will take, in words."""
        if not self.calls:
            return "none, nothing is asked of a server"
        price = "at unknown prices" if self.usd is None else f"about {self.usd:.2f} USD"
        return (
            f"about {self.calls} calls, {self.input_tokens} input and {self.output_tokens} output tokens, {price}; "
            f"a fifth more is counted for texts that are asked for again"
        )

    @property
    def rows(self) -> list[dict[str, str]]:
        """A row a pathology of the corpus, for a table: its findings, their share, and its share in the corpus."""
        return [
            {
                "pathology": name,
                "findings": str(self.pathologies.get(name, 0)),
                "share": f"{self.plan_share.get(name, 0.0):.1%}",
                "in the corpus": f"{share:.1%}",
            }
            for name, share in self.corpus_share.items()
        ]


def describe(requests: Sequence[PromptRequest], vocabulary: Vocabulary, config: PromptsConfig) -> PromptPlan:
    """Returns the distribution of the requests beside the corpus', and the calls they will take."""
    findings = [finding for request in requests for finding in request.findings]
    pathologies = Counter(finding.pathology for finding in findings)
    seen: Counter[str] = Counter()
    for count in vocabulary.findings:
        seen[count.pathology] += count.n
    calls, usage = expected_usage(requests, vocabulary, config)
    prices = Prices(config.openai.usd_per_million_input, config.openai.usd_per_million_output)
    known = None not in (prices.input, prices.output) or not calls
    return PromptPlan(
        requested=len(requests),
        normal=sum(not request.findings for request in requests),
        findings_a_prompt=_counts(str(len(request.findings)) for request in requests),
        pathologies=dict(pathologies.most_common()),
        sides=_counts(finding.side for finding in findings),
        severities=_counts(finding.severity or "none" for finding in findings),
        places=_counts(finding.anatomy or "none" for finding in findings),
        corpus_share={name: round(n / seen.total(), 4) for name, n in seen.most_common()},
        plan_share={name: round(n / len(findings), 4) for name, n in pathologies.most_common()},
        calls=calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        usd=round(prices.of(usage), 4) if known else None,
    )


def expected_usage(
    requests: Sequence[PromptRequest], vocabulary: Vocabulary, config: PromptsConfig
) -> tuple[int, Usage]:
    """Returns the calls and tokens that a server will be asked for, about; 0 for other providers."""
    if config.provider != "openai" or not requests:
        return 0, Usage()
    size = config.openai.prompts_per_call
    first = [Assignment("", request) for request in requests[:size]]
    bound = call_bound(config.openai, messages_for(first, told_vocabulary(vocabulary)), len(first))
    calls = math.ceil(len(requests) / size * _ASKED_AGAIN)
    output = math.ceil(len(requests) * _TOKENS_A_TEXT * _ASKED_AGAIN)
    return calls, Usage(math.ceil(calls * bound.input_tokens / _BYTES_A_TOKEN), output)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
