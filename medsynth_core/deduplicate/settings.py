"""What the stage ``deduplicate`` reads of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from medsynth_core.config.parameters import Params


@dataclass(frozen=True)
class DeduplicateParams(Params):
    """Nothing: which filters ran, and their bounds, stand in the list of shards."""
