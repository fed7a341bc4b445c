"""What synthesis reads: the accepted prompts, as rows and as model inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medsynth_core.errors import InputError
from medsynth_core.models.condition import Condition


@dataclass(frozen=True)
class PromptRow:
    """One accepted prompt; filters read of its condition what ``filters.spec.Prompt`` says."""

    prompt_id: str
    text: str
    condition: Condition

    @property
    def findings(self) -> tuple[Mapping[str, Any], ...]:
        return self.condition.findings

    @property
    def query(self) -> str:
        return self.condition.query

    @property
    def view(self) -> str | None:
        return self.condition.view

    def identity(self) -> dict[str, object]:
        """What of a prompt determines its images."""
        return {"id": self.prompt_id, "text": self.text, **self.condition.identity()}


def read_prompts(folder: Path) -> list[PromptRow]:
    """Returns the accepted prompts in order.

    Raises:
        InputError: there are none.
    """
    path = folder / "prompts.parquet"
    if not path.is_file():
        raise InputError(f"{path}: not found; run `medsynth prompts` first")
    rows = pq.read_table(path, columns=["prompt_id", "text", "findings", "view"]).to_pylist()
    if not rows:
        raise InputError(f"{path}: no accepted prompt in it; see rejected.parquet beside it")
    return [PromptRow(row["prompt_id"], row["text"], Condition.of(row)) for row in rows]
