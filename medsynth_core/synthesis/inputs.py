"""What synthesis reads: the accepted prompts, as rows and as model inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medsynth_core.errors import InputError
from medsynth_core.models.text import query_of


@dataclass(frozen=True)
class PromptRow:
    """One accepted prompt.

    Attributes:
        query: its findings in words, which choose the keypatches and which the image must agree with.
    """

    prompt_id: str
    text: str
    findings: tuple[dict[str, Any], ...]
    view: str

    @property
    def query(self) -> str:
        return query_of(self.findings)

    @property
    def anatomy(self) -> list[str]:
        return sorted({finding["anatomy"] for finding in self.findings if finding["anatomy"]})

    @property
    def pathology(self) -> list[str]:
        return [finding["pathology"] for finding in self.findings]

    def identity(self) -> dict[str, object]:
        """What of a prompt determines its images."""
        return {"id": self.prompt_id, "text": self.text, "query": self.query, "view": self.view}


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
    return [PromptRow(row["prompt_id"], row["text"], tuple(row["findings"]), row["view"]) for row in rows]
