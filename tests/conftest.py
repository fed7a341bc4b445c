"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from medsynth_core.config import Paths
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

TINY: dict[str, Any] = {
    "corpus": {"n_studies": 325, "image_size": 32, "val_fraction": 0.1, "test_fraction": 0.1},
    "vocabulary": {"min_studies": 3},
    "prompts": {"n": 6},
    "models": {
        "precision": "float32",
        "classifier": {
            "channels": [8, 8],
            "train": {"steps": 6, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2},
        },
        "judge": {
            "channels": [8, 8],
            "train": {"steps": 6, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2},
        },
        "segmenter": {
            "channels": [8, 8],
            "train": {"steps": 2, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
        },
        "vqgan": {
            "channels": [8, 8, 16],
            "patch": 1,
            "grain_channels": 0,
            "spectral_weight": 0.0,
            "codes": 32,
            "code_dim": 8,
            "adversarial_start": 3,
            "train": {"steps": 6, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
        },
        "alignment": {
            "dim": 16,
            "text_layers": 1,
            "text_heads": 2,
            "image_channels": [8, 16],
            "codebook_size": 200,
            "codebook_min_patients": 2,
            "train": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2},
        },
        "llm": {
            "hidden": 16,
            "layers": 1,
            "heads": 2,
            "keypatches": 4,
            "train": {"steps": 4, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
        },
    },
    "synthesis": {"samples_per_prompt": 4, "shard_images": 6, "batch_size": 8},
    "report": {"oracle_phantoms": 64},
    "release": {"min_fidelity": {"tokenizer": None, "images": None}},
    "quality": {
        "duplicate": {"training_quantile": 0.0, "release_quantile": 0.0},
        "agreement": {"quantile": 0.0},
        "enabled": ["duplicate", "agreement"],
    },
}
"""A pipeline that runs in seconds and learns nothing."""


def tiny(**changes: Mapping[str, Any]) -> Config:
    """Returns the tiny configuration with some sections changed."""
    return parse_config({key: {**TINY.get(key, {}), **changes.get(key, {})} for key in {*TINY, *changes}}, "test")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Paths]:
    """A workspace folder with corpus, vocabulary, prompts and trained tiny models; not to be changed."""
    config, paths = tiny(), workspace_paths(tmp_path_factory.mktemp("trained"))
    for stage in ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "llm", "calibrate"):
        perform(stage, config, paths.root, silent)
    return config, paths


@pytest.fixture
def png_folder(tmp_path: Path) -> Path:
    """A folder with three small grayscale PNG files."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder
