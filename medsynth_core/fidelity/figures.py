"""What a figure of three sides says: real films, the same as the tokenizer renders them, and the accepted images.

What tells renderings from films is the tokenizer's; what tells images from renderings, the language model's.
"""

from __future__ import annotations

from dataclasses import dataclass

from medsynth_core.judging.measured import MeasuredFigure

TOLD_APART, FIDELITY = "told_apart", "fidelity"
RECALL, COVERAGE = "recall", "coverage"


@dataclass(frozen=True)
class FidelityFigure(MeasuredFigure):
    """One figure: told_apart, an AUC by spectrum or network; fidelity, a share by spectrum or texture; recall or
    coverage, shares by layout or texture, of which ``real`` is what as many training originals get.

    Attributes:
        side: synthetic or rendered.
        against: real or rendered; of fidelity real.
    """

    side: str = "synthetic"
    against: str = "real"
