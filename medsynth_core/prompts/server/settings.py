"""Settings of an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medsynth_core.config.section import Count, Section


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
