"""The agreement filter: does the image carry its prompt, by the alignment model?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medsynth_core.config.section import Fraction, Section
from medsynth_core.filters.spec import Column, Context, Filter, Prompt, Reason, Scores, percent, quantile_of
from medsynth_core.filters.thumbnails import Images

_SCORE, _LOW = "score_agreement", "agreement:low"


class AgreementSettings(Section):
    """Images at odds with their prompt; the bound has no margin."""

    quantile: Fraction = 0.005
    """Of the agreement of an image with its prompt's findings; less is at odds."""


class Agreement(Filter[AgreementSettings, None]):
    """Rejects images that agree less with their text than almost all real held-out pairs do."""

    name = "agreement"
    version = 1
    cost = 2.0
    settings = AgreementSettings
    columns = (
        Column(
            _SCORE,
            "prompt-image agreement by the alignment model, -1..1",
            "agreement with the prompt",
            "agreement",
            orders=(("down", "best agreement first"), ("up", "worst agreement first")),
            least="agreement at least",
        ),
    )
    reasons = (Reason(_LOW, "at odds with its prompt", _SCORE),)

    def measure(self, images_u8: Images, prompts: Sequence[Prompt], context: Context, model: None) -> Scores:
        """Score: of the alignment model."""
        return {_SCORE: context.agreement()}

    def bounds(self, scores: Scores, settings: AgreementSettings, margin: float) -> dict[str, float]:
        return {"agreement": quantile_of(_SCORE, scores[_SCORE], settings.quantile, without=-1.0)}

    def judge(self, scores: Scores, bounds: Mapping[str, float], settings: AgreementSettings) -> list[str | None]:
        """A score that isn't a number is low."""
        return [None if score >= bounds["agreement"] else _LOW for score in scores[_SCORE]]

    def card(self, settings: Mapping[str, Any], bounds: Mapping[str, float]) -> str:
        return (
            f"Images at odds with their prompt were rejected: an agreement under {bounds['agreement']:.2f} (-1..1), "
            f"which all but {percent(settings['quantile'])} of real held-out pairs reach. The model that judges it "
            "also guided the synthesis, and may share its errors."
        )


FILTER = Agreement()
