"""What a set of requests will hold and cost, known before any call is paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medsynth_core.prompts.account import Budget
from medsynth_core.prompts.records import PromptRequest, Usage
from medsynth_core.prompts.settings import PROVIDERS, PromptsConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary


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
    name, given = config.provider, (config.settings, requests, vocabulary)
    calls, usage = PROVIDERS.ask(name, "expected_usage", *given, default=(0, Usage()))
    prices = PROVIDERS.ask(name, "budget", config.settings, default=Budget()).prices
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


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
