"""Settings of the prompts and of who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt, create_model, field_validator

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.plugins import Plugins, module_of
from medsynth_core.config.section import Device, Fraction, Section, View

PROVIDERS = Plugins("medsynth_core.prompts.providers", setting="prompts.provider", function="open_provider")


class PromptsSettings(Section):
    """What is asked for: term sampling and the provider that writes the text."""

    n: PositiveInt = 60
    """Prompts to be written."""
    provider: str = "template"
    """A module of prompts/providers: template writes offline from the vocabularies; openai asks a server; transformers
    runs a chat model here."""
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

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        return PROVIDERS.checked(provider)

    @property
    def settings(self) -> Section:
        """The section of the provider, an empty one when it has none."""
        found: Section = getattr(self, module_of(self.provider), Section())
        return found


def _sections() -> dict[str, Any]:
    found = {name: getattr(PROVIDERS.load(name), "SETTINGS", None) for name in PROVIDERS.names()}
    return {name: (kind, Field(default=kind(), description=kind.__doc__)) for name, kind in found.items() if kind}


if TYPE_CHECKING:
    PromptsConfig = PromptsSettings
else:
    PromptsConfig = create_model(
        "PromptsConfig", __base__=PromptsSettings, __doc__=PromptsSettings.__doc__, **_sections()
    )
    """Section ``prompts``: what providers have in common, and a section for each that has settings."""


@dataclass(frozen=True)
class PromptsParams(Params):
    """What stage ``prompts`` reads of params.yaml."""

    seed: int
    prompts: PromptsConfig
    view: Annotated[View, Param("synthesis.view")]
    samples_per_prompt: Annotated[int, Param("synthesis.samples_per_prompt")]
    quotas: Annotated[dict[str, int], Param("release.quotas")]
    device: Annotated[Device, Param(changes_output=False)]
