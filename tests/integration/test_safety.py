"""Nothing of a report leaves the machine, nor reaches a log: canaries are planted and every byte is read."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest

from benchmarks.llm_server import LLMServer
from medsynth_core.config import Paths
from medsynth_core.progress import silent
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config
from tests.conftest import tiny

pytestmark = pytest.mark.integration

NAMES = ["Kowalczyk", "Brzezinska", "Okonkwo", "Quispe", "THORVALDSEN"]
CANARIES = [
    *NAMES,
    *[name.lower() for name in NAMES],
    "MRN 48291736",
    "48291736",
    "03/17/2019",
    "March 17, 2019",
    "14:37",
    "zq-7741-k",
    "kowalczyk@clinic.example",
    "the patient fell off a yellow ladder behind the bakery",
    "yellow ladder",
    "bakery",
    "Quispesia",
    "oldest sister of the mayor",
    "XXXX",
    "___",
]
REPORTS = [
    "Small left pleural effusion. Seen by Dr. Kowalczyk on 03/17/2019 at 14:37. No pneumothorax.",
    "Left pleural effusion, MRN 48291736. The patient fell off a yellow ladder behind the bakery.",
    "Brzezinska effusion is seen. Kowalczyk opacity in the right lower lobe. Quispe sign. The heart is normal.",
    "The heart is brzezinska enlarged. Okonkwo pneumonia. Blunting of the okonkwo costophrenic angle. XXXX ___ nodule.",
    "Cardiomegaly. kowalczyk@clinic.example was told, ref zq-7741-k. Elevation of the quispe right hemidiaphragm.",
    "THORVALDSEN'S OPACITY. OLDEST SISTER OF THE MAYOR. Quispesia is seen. No quispe effusion or Okonkwo mass.",
    "Tortuous kowalczyk aorta. Okonkwo's atelectasis at the left base on March 17, 2019. No pneumothorax.",
]


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Config, Paths]:
    """A corpus in which every canary stands in the reports of thirty patients: many more than k-anonymity asks."""
    with (tmp_path / "studies.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filename", "text", "patient"])
        for patient in range(30):
            writer.writerows(["", report, f"patient-{patient}-kowalczyk"] for report in REPORTS)
    config = tiny(
        corpus={
            "kind": "table",
            "path": str(tmp_path / "studies.csv"),
            "columns": {"text": "text", "image": "filename", "patient": "patient"},
        },
        prompts={"n": 40, "provider": "openai", "min_together": 1},
    )
    return config, workspace_paths(tmp_path / "workspace")


def found(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary in text or canary.lower() in text.lower()]


def test_canaries_reach_neither_the_server_nor_the_logs(
    planted: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = planted
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-of-the-key")
    caplog.set_level(logging.DEBUG)
    perform("corpus", config, paths.root, silent)
    perform("vocabulary", config, paths.root, silent)
    server = LLMServer(Vocabulary.load(paths["vocabulary"] / "vocabulary.json"), fault_rate=0.2)
    openai = config.prompts.openai.model_copy(
        update={"base_url": server.url, "timeout_s": 1.0, "concurrency": 4, "max_retries": 9}
    )
    config = config.model_copy(update={"prompts": config.prompts.model_copy(update={"openai": openai})})
    report = perform("prompts", config, paths.root, silent)
    server.close()
    assert report.accepted > 0

    sent = b"".join(server.bodies).decode()
    assert "pleural effusion" in sent, "the vocabulary was told"
    assert found(sent) == []
    assert found(caplog.text) == []
    assert "sk-canary" not in caplog.text
    for path in (
        paths["vocabulary"] / "vocabulary.json",
        paths["vocabulary"] / "terms.csv",
        paths["prompts"] / "account.json",
    ):
        assert found(path.read_text()) == [], path
    written = b"".join(p.read_bytes() for p in (*paths["prompts"].iterdir(), paths.prompt_ledger))
    assert b"sk-canary" not in written


def test_the_canaries_would_be_seen() -> None:
    assert len(found(json.dumps(REPORTS))) >= len(CANARIES) - 4
