"""Judges of findings, one a module; an entry of ``evaluation.judges`` names one: ``NAME`` or ``NAME:PLACE``.

Each module has ``open_judge(place: str, paths: Paths) -> FindingJudge``, and may have ``PLACE`` and ``check`` as
extractors do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsynth_core.config import Paths
from medsynth_core.config.entries import open_entry
from medsynth_core.evaluation.settings import JUDGES

if TYPE_CHECKING:
    from medsynth_core.evaluation.networks import FindingJudge


def load_judge(entry: str, paths: Paths) -> FindingJudge:
    """Returns one of ``evaluation.judges``, in evaluation mode.

    Raises:
        ConfigError: its module is unknown, or has a place too many or too few.
        InputError: its weights are missing, damaged, or of another network.
    """
    net: FindingJudge = open_entry(JUDGES, entry, paths)
    return net.eval().requires_grad_(False)
