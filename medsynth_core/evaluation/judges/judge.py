"""The labelling judge. Networks are loaded in functions: it is the default, and a check before a run needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths

if TYPE_CHECKING:
    from medsynth_core.evaluation.networks import FindingJudge


def open_judge(place: str, paths: Paths) -> FindingJudge:
    """Returns it, for pathologies and the places where they lie.

    Raises:
        InputError: it isn't there.
    """
    from medsynth_core.evaluation.networks import OwnJudge
    from medsynth_core.judging.calibrated import load_judge

    return OwnJudge(load_judge(paths["calibrate"]))
