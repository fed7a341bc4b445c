"""The list of a run's shards, as the stages synthesis and deduplicate leave it on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core.errors import CorruptObjectError, InputError
from medsynth_core.storage.completion import CompletionRecord, Counts


class ShardList(BaseModel):
    """What was made: its identity, its shards and the totals (``shards.json``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    spec_hash: str
    run_ids: tuple[str, ...]
    """One a round of generating, in order."""
    parent: str | None
    """Tag of the release that these shards are added to."""
    model_digests: dict[str, str]
    judge_sha256: str
    """Digest of the labelling judge and of the training images that features are standardised by."""
    quality: dict[str, Any]
    """The filters that ran (``enabled``), what they have in common, and a section of each."""
    bounds: dict[str, float]
    """What their quantiles came to."""
    shards: tuple[CompletionRecord, ...]
    counts: Counts
    """Of these shards, without the parent's."""

    def save(self, folder: Path) -> None:
        """Writes ``shards.json`` into ``folder``."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        (folder / "shards.json").write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, stage: str) -> ShardList:
        """Returns the list that ``medsynth STAGE`` wrote.

        Raises:
            InputError: it isn't there.
            CorruptObjectError: it can't be read or its counts don't add up.
        """
        path = folder / "shards.json"
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{path}: not found; run `medsynth {stage}` first") from error
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise CorruptObjectError(f"{path}: {reason}; run `medsynth {stage}` again") from error
