"""Settings of the release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.section import Fraction, Precision, Section, View
from medsynth_core.fidelity.settings import FidelityFloors
from medsynth_core.privacy.settings import RiskLimits


class ReleaseConfig(Section):
    """What the release is called and what its description says of it."""

    name: str = Field(default="synthetic-cxr", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Dataset name; tags are NAME-vN."""
    split: Literal["train", "val", "test"] = "train"
    """Value of the manifest's split column."""
    parent: str | None = None
    """Tag of an earlier release of the same store, whose images stay and which is added to; null starts afresh."""
    quotas: dict[str, PositiveInt] = Field(default_factory=dict)
    """Finding, with side, severity or view if wanted ("large left pleural effusion", "lateral pneumothorax", "normal")
    -> at least so many accepted images, the parent's included; more is made until there are."""
    max_attempts: PositiveInt = 4
    """A quota that isn't met with this many made images for each one that it wants is an error."""
    min_fidelity: FidelityFloors = FidelityFloors()
    low_diversity: Fraction = 0.7
    """Share of what as many training originals reach of the recall or the coverage of real films, below which card and
    page say that the images are too much alike."""
    license: str = Field(default="other", pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")
    """Licence that you release under, as SPDX or Hugging Face call it; other: one of your own, or none yet. The
    corpus' licence may forbid to choose: the dataset card states both."""
    license_link: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address of the licence's text."""
    publisher: str | None = None
    """Name of the team that releases."""
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address of the page where the dataset lives."""


@dataclass(frozen=True)
class ReleaseParams(Params):
    """What stage ``release`` reads of params.yaml: the name and the limits that it obeys, and what it writes down.

    Attributes:
        models_path: None: the models were trained here.
    """

    release: ReleaseConfig
    limits: Annotated[RiskLimits, Param("privacy.limits")]
    models_path: Annotated[str | None, Param("models.path")]
    samples_per_prompt: Annotated[int, Param("synthesis.samples_per_prompt")]
    view: Annotated[View, Param("synthesis.view")]
    precision: Annotated[Precision, Param("synthesis.precision")]
    temperature: Annotated[float, Param("synthesis.temperature")]
    top_p: Annotated[float, Param("synthesis.top_p")]
    top_k: Annotated[int, Param("synthesis.top_k")]
    guidance: Annotated[float, Param("synthesis.guidance")]
    sampling_seed: Annotated[int, Param("synthesis.seed")]

    @property
    def sampling(self) -> dict[str, Any]:
        """What of the sampling decides the images, and how many were asked for: the same for whoever makes them in
        other shards or batches."""
        return {
            "samples_per_prompt": self.samples_per_prompt,
            "view": self.view,
            "precision": self.precision,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "guidance": self.guidance,
            "seed": self.sampling_seed,
        }
