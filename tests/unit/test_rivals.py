"""The rivals of the benchmark, on models of a few steps: that they are what they are said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.latent_diffusion import LatentDiffusion, Texts
from benchmarks.rivals import NEAREST, Figures, _Retrieval, _shown, table
from medsynth_core.config import Paths
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.tree import Config


def test_latent_diffusion_learns_and_says_the_same_twice(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    _, paths = trained
    model = LatentDiffusion(paths, width=16, layers=1)
    about = model.fit(paths, seconds=3.0, learning_rate=1e-3, seed=0, jitter=0.5, written=0.5, bf16=False)
    assert about["steps"] >= 1
    assert about["seconds"] < 30
    texts = ["Large left pleural effusion.", "No acute findings."] * 2
    images = model.images(texts, steps=2, guidance=2.0, seed=0)
    assert images.shape[0] == 4
    assert images.dtype == np.uint8
    model.save(tmp_path / "model.pt")
    again = LatentDiffusion(paths, width=16, layers=1)
    again.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.images(texts, steps=2, guidance=2.0, seed=0), images)


def test_texts_are_encoded_once_and_the_empty_one_is_nothing(trained: tuple[Config, Paths]) -> None:
    alignment = AlignmentModel.load(trained[1]["alignment"])
    texts = Texts.encode(alignment, ["Left effusion.", "Clear lungs.", "Left effusion."])
    assert len(texts.features_TWC) == 3
    features, there = texts.of(["", "Left effusion."])
    assert not features[0].any()
    assert there[0].sum() == 1
    assert there[1].sum() > 1


@pytest.mark.parametrize("name", [NEAREST, "another"])
def test_the_nearest_neighbour_shows_what_is_asked(name: str, trained: tuple[Config, Paths]) -> None:
    pairs = read_pairs(trained[1], "train")
    prompts = [PromptRow(str(place), "", pairs.conditions[place]) for place in range(10)]
    images = _Retrieval(trained[1].root, name, "train", 0).images(prompts, None)
    shown = {image.tobytes(): _shown(condition) for image, condition in zip(
        pairs.corpus.images(pairs.rows), pairs.conditions, strict=True)}  # fmt: skip
    for image, prompt in zip(images, prompts, strict=True):
        assert shown[image.tobytes()] == _shown(prompt.condition)


def test_the_table_has_means_with_intervals() -> None:
    figures = Figures(0.9, None, None, 0.001, 0.9, 0.8, 1.0, 0.7, 0.5, "membership_tpr", 2.0, 10.0, 0.1, 1e6)
    text = table({"medsynth": [figures, figures], "real": [figures]})
    assert "| medsynth | 0.900 ± 0.000 | – | – | 1.000 ± 0.000 | 0.900 ± 0.000 |" in text
    assert "| membership_tpr | 10 | 10.0 | 1.0 | 2, 2 |" in text
