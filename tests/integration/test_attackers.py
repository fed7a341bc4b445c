"""Attackers of the privacy stage on the tiny models: they catch planted copies, find nothing among real films that are
exchangeable, and tell what a language model knows by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.attackers import SPACES, Figures, exchangeable_figures, holds, planted_figures, sides_of
from medsynth_core.config import Paths
from medsynth_core.config.entries import inputs_of, open_entry
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.reidentification import VerificationNetwork
from medsynth_core.models.settings import LLMConfig
from medsynth_core.models.text import load_tokenizer
from medsynth_core.privacy.attackers.likelihood import likelihoods
from medsynth_core.privacy.attackers.reidentification import verification_figure
from medsynth_core.privacy.settings import ATTACKERS
from medsynth_core.privacy.sides import Sides
from medsynth_core.privacy.space import Space
from medsynth_core.training.examples import Examples
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
SMALL = {
    "channels": [8, 16],
    "train": {"steps": 40, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 5},
}


@pytest.fixture(scope="module")
def sides(trained: tuple[Config, Paths], tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """The tiny workspace, its training set cut to 50 films; what the attackers train is kept elsewhere."""
    config = trained[0].model_dump(mode="json")
    config["privacy"] |= {"reidentification": SMALL, "min_images": 10}
    paths = Paths(tmp_path_factory.mktemp("attackers"), trained[1].places)
    found = sides_of(parse_config(config, "test"), paths)
    known = replace(found.known, thumbnails=found.known.thumbnails[:50], raw_features=found.known.raw_features[:50])
    return replace(found, training=found.training.take(range(50)), known=known)


def best_auc(figures: Figures) -> float:
    return max(figures[f"membership_auc{suffix}"].value or 0 for suffix in ("", "_relative"))


def test_planted_copies_are_caught(sides: Sides) -> None:
    found = planted_figures(sides, "as they are", 0)
    assert set(found) == set(SPACES)
    for name, figures in found.items():
        assert best_auc(figures) >= 0.95, name
        assert figures["nearer_than_held_out"].value > 0.9, name
    noisy = planted_figures(sides, "noise of 8 grey levels", 0, ("pixels",))
    assert best_auc(noisy["pixels"]) >= 0.95


def test_exchangeable_films_give_nobody_away(sides: Sides) -> None:
    found = exchangeable_figures(sides, 12, 0)
    assert set(found) == {f"{name}{suffix}" for name in (*SPACES, "likelihood") for suffix in ("", "_relative")}
    for name, draws in found.items():
        assert abs(np.mean([area.value for area, _ in draws]) - 0.5) < 0.08, name
        assert sum(holds(area) for area, _ in draws) >= 9, f"{name}: of 12 intervals of 95 %"


def test_who_re_identifies_says_how_well(sides: Sides) -> None:
    figures = {figure.metric: figure for figure in open_entry(ATTACKERS, "reidentification", sides).figures}
    assert list(figures)[:2] == ["verification_auc", "copy_auc"]
    assert figures["copy_auc"].value > 0.9 > 0.5 == figures["copy_auc"].real
    verified = figures["verification_auc"]
    assert (verified.real, verified.n_held_out) == (0.5, 5 * verified.n)
    assert verified.n > 10, "phantoms of which a patient has two, whom it hasn't seen"


def test_verification_is_of_patients_whom_the_space_tells_apart(sides: Sides) -> None:
    patients = [f"p{place // 2}" for place in range(50)]
    several = replace(sides, training=replace(sides.training, pairs=replace(sides.training.pairs, patients=patients)))
    numbers = np.arange(25, dtype=np.float32).repeat(2)[:, None]
    nowhere = np.zeros((0, 1), dtype=np.float32)
    nobody = {name: getattr(several, name).take([]) for name in ("held_out", "reference")}

    def told(places: np.ndarray) -> float:
        space = Space("made", "euclidean", nowhere, places.astype(np.float32), nowhere, nowhere)
        figure = verification_figure(space, replace(several, **nobody), 0)
        assert (figure.n, figure.n_held_out, figure.real) == (25, 125, 0.5)
        assert figure.value is not None
        return figure.value

    assert told(numbers) == 1.0
    assert told(np.random.default_rng(0).permutation(numbers)) == pytest.approx(0.5, abs=0.15)


def test_a_model_that_knows_films_by_heart_is_told_by_its_likelihood(
    sides: Sides, trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = replace(sides, training=sides.training.take(range(24)))
    fresh = {figure.metric: figure for figure in open_entry(ATTACKERS, "likelihood", sides).figures}
    assert set(fresh) == {f"likelihood_{metric}{suffix}" for metric in ("auc", "tpr") for suffix in ("", "_relative")}
    assert holds(fresh["likelihood_auc"]), "after four steps it knows nothing"
    assert (fresh["likelihood_auc"].space, fresh["likelihood_auc"].n) == ("models", 24)
    model = overfitted(sides)
    monkeypatch.setattr(ImageLanguageModel, "load", lambda _: model)
    caught = {figure.metric: figure for figure in open_entry(ATTACKERS, "likelihood", sides).figures}
    assert caught["likelihood_auc"].value >= 0.95
    assert caught["likelihood_auc_relative"].value >= 0.95
    assert caught["likelihood_tpr"].value > 0.5
    model.config = model.config.model_copy(update={"condition_dropout": 0.0})
    without = {figure.metric for figure in open_entry(ATTACKERS, "likelihood", sides).figures}
    assert without == {"likelihood_auc", "likelihood_tpr"}, "without conditions it was never trained"


def overfitted(sides: Sides) -> ImageLanguageModel:
    """Returns a language model that was trained on the training films alone."""
    tokenizer = load_tokenizer(sides.paths["alignment"] / "tokenizer")
    settings = LLMConfig(hidden=64, layers=2, heads=4, keypatches=4)
    torch.manual_seed(0)
    image_tokenizer, alignment = sides.image_tokenizer, sides.alignment
    model = ImageLanguageModel.fresh(settings, alignment.side**2, image_tokenizer.codes, tokenizer)
    phrasing = Phrasing(Vocabulary.load(sides.paths["vocabulary"] / "vocabulary.json"))
    examples = Examples(sides.training.pairs, image_tokenizer, alignment, sides.codebook, settings, phrasing)
    prefixes = [examples.prefix(model, place) for place in range(len(examples))]
    codes_NT = examples.codes_NT.clone()  # an inference tensor isn't learnt from
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(50):
        loss = model.image_loss(prefixes, codes_NT)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@torch.inference_mode()
def test_likelihoods_are_the_loss_image_by_image(sides: Sides) -> None:
    model = ImageLanguageModel.load(sides.paths["llm"])
    pairs = sides.held_out.pairs.take(range(7))
    phrasing = Phrasing(Vocabulary.load(sides.paths["vocabulary"] / "vocabulary.json"))
    examples = Examples(pairs, sides.image_tokenizer, sides.alignment, sides.codebook, model.config, phrasing)
    found = likelihoods(model, sides, pairs)
    prefixes = [examples.prefix(model, place) for place in range(7)]
    assert found.given.mean() == pytest.approx(float(model.image_loss(prefixes, examples.codes_NT)), rel=1e-5)
    alone = [model.empty_prefix(condition) for condition in pairs.conditions]
    singly = [float(model.image_loss([alone[place]], examples.codes_NT[[place]])) for place in range(7)]
    assert found.alone.tolist() == pytest.approx(singly, rel=1e-4)


def test_a_published_network_is_another_attacker(sides: Sides, tmp_path: Path) -> None:
    """Its file names the space, and its digest, not its place, what the figures follow from."""

    torch.manual_seed(0)
    network = VerificationNetwork(32, "unit")
    path = tmp_path / "theirs.safetensors"
    save_file(network.state_dict(), path, {"side": "32", "scale": "unit"})
    few = replace(sides, training=sides.training.take(range(12)), synthetic=np.zeros((10, 32, 32), dtype=np.uint8))
    attack = open_entry(ATTACKERS, f"reidentification:{path}", few)
    assert {figure.space for figure in attack.figures} == {"reidentification:theirs"}
    assert attack.space is not None
    assert json.dumps(inputs_of(ATTACKERS, f"reidentification:{path}", few.params, few.paths)).count("theirs") == 0
