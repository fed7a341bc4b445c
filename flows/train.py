"""The flow ``train``: corpus and vocabulary in, the three models out."""

from __future__ import annotations

from typing import Any

from prefect import flow

from medsynth_core.config import Config
from tasks.stages import mine_vocabulary, read_corpus, train_alignment, train_llm, train_vqgan


@flow(name="train", flow_run_name="train-{config.release.name}", validate_parameters=False)
def train(root: str, config: Config) -> dict[str, Any]:
    """Trains VQ-GAN, alignment and language model in the workspace ``root``; fresh ones are kept."""
    read_corpus(root, config)
    mine_vocabulary(root, config)
    return {
        "vqgan": train_vqgan(root, config),
        "alignment": train_alignment(root, config),
        "llm": train_llm(root, config),
    }
