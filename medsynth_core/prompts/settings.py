"""Settings of the prompts and of who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Count, Device, Fraction, Precision, Section, View


class OpenAIConfig(Section):
    """An OpenAI-compatible server; the key is read from OPENAI_API_KEY."""

    model: str = "gpt-4o-mini"
    """Model name sent with each request."""
    base_url: str | None = None
    """Server's /v1 address; null is the client's own default."""
    mode: Literal["direct", "batch"] = "direct"
    """direct: one answer a call, at once; batch: the Batch API, at half the price, within a day."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = 0.9
    """Sampling temperature of the language model; null isn't sent (reasoning models take none)."""
    timeout_s: PositiveFloat = 60.0
    """Limit of one request."""
    concurrency: PositiveInt = 4
    """Requests in flight."""
    prompts_per_call: PositiveInt = 5
    """How many prompts one request asks for; half as many each time they are asked for again."""
    tokens_per_prompt: PositiveInt = 200
    """Limit of an answer, a prompt; a reasoning model needs more."""
    max_retries: Count = 5
    """Retries of a transient failure (429, 5xx, time-out, reset), with jitter, or as long as Retry-After says."""
    max_wait_s: PositiveFloat = 120.0
    """A server that asks for a longer wait stops the run, which goes on when it is started again."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit of calls; null: none."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit of input and output tokens; null: none."""
    usd_per_million_input: Annotated[float, Field(ge=0.0)] | None = None
    """Price of input tokens in the chosen mode; null: unknown."""
    usd_per_million_output: Annotated[float, Field(ge=0.0)] | None = None
    """Price of output tokens in the chosen mode; null: unknown."""
    budget_usd: Annotated[float, Field(gt=0.0)] | None = None
    """What this plan of prompts may cost over all its runs; needs the prices. null: no limit."""
    budget_tokens: PositiveInt | None = None
    """How many tokens this plan may use over all its runs; null: no limit."""
    batch_poll_s: PositiveFloat = 60.0
    """Batch API: how often its state is asked for."""
    batch_wait_h: PositiveFloat = 25.0
    """Batch API: how long a run waits; the next one goes on waiting for the same batch."""

    @model_validator(mode="after")
    def _budget_has_prices(self) -> OpenAIConfig:
        if self.budget_usd is not None and None in (self.usd_per_million_input, self.usd_per_million_output):
            raise ValueError(
                "budget_usd needs usd_per_million_input and usd_per_million_output; set them, or use budget_tokens"
            )
        return self


class LocalLLMConfig(Section):
    """A chat model run here: for a corpus whose terms forbid third-party services."""

    model: str | None = None
    """Folder or name of a causal language model of transformers, with its tokenizer."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.9
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    max_new_tokens: PositiveInt = 200
    """Limit of an answer."""
    batch_size: PositiveInt = 8
    """Prompts written together."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, else float32."""


class PromptsConfig(Section):
    """What is asked for: term sampling and the provider that writes the text."""

    n: PositiveInt = 60
    """Prompts to be written."""
    provider: Literal["template", "openai", "transformers"] = "template"
    """template writes offline from the vocabularies; openai asks a server; transformers runs a chat model here."""
    normal_fraction: Fraction | None = 0.15
    """Share of prompts without any finding; null takes the corpus' own share."""
    max_findings: PositiveInt = 2
    """At most this many findings in one prompt."""
    targets: dict[str, PositiveInt] = Field(default_factory=dict)
    """Finding, with a side or a severity if wanted ("large left pleural effusion") -> prompts that are led by it; the
    rest is sampled from the corpus."""
    min_together: PositiveInt = 2
    """Findings, or a finding and its place, that fewer studies show together are never asked for together."""
    smoothing: Fraction = 0.1
    """Share of findings whose severity is drawn apart from its place, so that pairs of the two that the corpus lacks
    are reached; 0 keeps to what was seen."""
    flatten: Fraction = 0.0
    """0: findings as often as in the corpus; 1: all equally often; between, counts to the power 1 - flatten."""
    max_attempts: PositiveInt = 4
    """How often a prompt is written at most, before it is rejected."""
    max_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Of word trigrams (Jaccard): a prompt at least as similar to an earlier one is a near-duplicate. 1: equal ones."""
    openai: OpenAIConfig = OpenAIConfig()
    transformers: LocalLLMConfig = LocalLLMConfig()

    @model_validator(mode="after")
    def _local_model_named(self) -> PromptsConfig:
        if self.provider == "transformers" and self.transformers.model is None:
            raise ValueError("provider is transformers: set transformers.model to a chat model's folder")
        return self


@dataclass(frozen=True)
class PromptsParams(Params):
    """What stage ``prompts`` reads of params.yaml."""

    seed: int
    prompts: PromptsConfig
    view: Annotated[View, Param("synthesis.view")]
    samples_per_prompt: Annotated[int, Param("synthesis.samples_per_prompt")]
    quotas: Annotated[dict[str, int], Param("release.quotas")]
    device: Annotated[Device, Param(changes_output=False)]
