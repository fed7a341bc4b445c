from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medsynth_core.config import Config, Paths
from medsynth_core.config.load import parse_config
from medsynth_core.config.tree import OptimiserConfig, VQGANConfig
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.models.alignment import AlignmentModel, Patches, Words, local_scores
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.progress import silent
from medsynth_core.training import alignment, classifier, llm, loop, vqgan
from medsynth_core.training.loop import (
    Batch,
    Objective,
    Trained,
    batch_indices,
    learning_rate,
    make_accelerator,
    micro_batches,
    train,
)
from medsynth_core.training.pairs import read_pairs

Loss = Callable[[torch.nn.Module, Batch], Mapping[str, torch.Tensor]]


class KilledError(Exception):
    """Stands for a SIGKILL between two steps."""


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a training run until it would take ``step``."""

    def rate(config: OptimiserConfig, at: int) -> float:
        if at == step:
            raise KilledError
        return learning_rate(config, at)

    monkeypatch.setattr(loop, "learning_rate", rate)


@pytest.mark.parametrize(("stage", "step"), [(classifier, 5), (vqgan, 5), (alignment, 3), (llm, 3)])
def test_a_resumed_training_ends_in_the_same_weights(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: ModuleType, step: int
) -> None:
    config, paths = trained
    name = stage.__name__.rpartition(".")[2]
    again = Paths(tmp_path)
    for folder in (paths.corpus, paths.vocabulary, paths.classifier, paths.vqgan, paths.alignment):
        if folder.name != name:
            link = tmp_path / folder.relative_to(paths.root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
    _killed_at(step, monkeypatch)
    with pytest.raises(KilledError):
        stage.run(config, again, silent)
    assert not (again.models / name).exists()
    monkeypatch.undo()
    report = stage.run(config, again, silent)
    assert report.resumed_from == step - 1
    assert report.digest == model_digest(paths.models / name)


class Line(torch.nn.Linear):
    """One weight, whose value says how many steps were taken."""

    def __init__(self) -> None:
        super().__init__(1, 1, bias=False)
        torch.nn.init.zeros_(self.weight)


def _fit(checkpoint: Path, settings: OptimiserConfig, module: torch.nn.Module, loss: Loss, **options: Any) -> Trained:
    return train(
        [Objective("line", module, loss)],
        32,
        settings,
        accelerator=make_accelerator(parse_config({"device": "cpu"}, "test")),
        key="key",
        seed=0,
        checkpoint=checkpoint,
        progress=silent,
        **options,
    )


def _upwards(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    return {"total": -module(torch.ones(1, 1)).sum()}


@pytest.mark.parametrize("killed_at", [None, 5])
def test_the_weights_with_the_lowest_held_out_loss_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int | None
) -> None:
    settings = OptimiserConfig(steps=7, batch_size=1, learning_rate=1.0, checkpoint_every=2, weight_decay=0.0)
    losses, weights = iter([0.9, 0.3, 0.5, 0.4]), []

    def run() -> Trained:
        module = Line()

        def judge() -> float:
            weights.append(module.weight.item())
            return next(losses)

        result = _fit(tmp_path / "line.safetensors", settings, module, _upwards, validate=judge)
        assert module.weight.item() == weights[1]
        return result

    if killed_at is not None:
        _killed_at(killed_at, monkeypatch)
        with pytest.raises(KilledError):
            run()
        monkeypatch.undo()
    result = run()
    assert result.best_step == 4
    assert len(set(weights)) == 4


def test_patience_stops_a_training_that_only_memorises(tmp_path: Path) -> None:
    settings = OptimiserConfig(steps=100, batch_size=1, learning_rate=0.1, checkpoint_every=2, patience=3)
    losses = iter([0.9, 0.3, 0.5, 0.4, 0.3, 0.2])
    result = _fit(tmp_path / "line.safetensors", settings, Line(), _upwards, validate=lambda: next(losses))
    assert (result.steps, result.best_step) == (10, 4)


def test_accumulated_passes_equal_one_batch(tmp_path: Path) -> None:
    samples = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    weights = []
    for micro_batch in (None, 2):
        settings = OptimiserConfig(steps=5, batch_size=8, micro_batch=micro_batch, learning_rate=0.1)
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 1)

        def loss(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            noise = torch.from_numpy(batch.draws(1)).float()
            return {"total": (module(samples[batch.picks]) - noise).square().mean()}

        _fit(tmp_path / f"{micro_batch}.safetensors", settings, module, loss)
        weights.append(module.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_processes_share_the_batch_of_one() -> None:
    settings = OptimiserConfig(steps=1, batch_size=8, micro_batch=2, learning_rate=0.1)
    alone = micro_batches(30, settings, 0, 3, rank=0, processes=1)
    shared = [batch for rank in (0, 1) for batch in micro_batches(30, settings, 0, 3, rank, processes=2)]
    for field in ("picks", "places"):
        parts = [np.concatenate([getattr(batch, field) for batch in batches]) for batches in (alone, shared)]
        np.testing.assert_array_equal(*parts)
    with pytest.raises(ConfigError, match="batch_size 8 can't be dealt out to 3 processes"):
        micro_batches(30, settings, 0, 3, rank=0, processes=3)


def test_batches_are_whole_epochs() -> None:
    seen = np.concatenate([batch_indices(10, 4, seed=1, step=step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_the_nearest_code_is_chosen() -> None:
    torch.manual_seed(0)
    model = VQGAN(VQGANConfig(channels=(8, 8), codes=16, code_dim=4))
    latents = torch.randn(2, 4, 3, 3)
    quantised = model.quantise(latents)
    for image, row, column in np.ndindex(2, 3, 3):
        distance = (model.codebook_KD - latents[image, :, row, column]).square().sum(1)
        assert quantised.codes_Bhw[image, row, column] == distance.argmin()
    exact = model.codebook_KD.detach()[None, :9].permute(0, 2, 1).reshape(1, 4, 3, 3)
    assert float(model.quantise(exact).codebook_loss.detach()) == pytest.approx(0.0, abs=1e-10)


def test_local_scores_equal_a_double_loop() -> None:
    torch.manual_seed(0)
    features = [normalize(torch.randn(*shape), dim=-1) for shape in ((3, 5, 8), (3, 8), (2, 7, 8), (2, 8))]
    words = Words(features[0], torch.rand(3, 5) > 0.3, [["w"] * 5] * 3, features[1])
    patches = Patches(features[2], features[3])
    by_words, by_patches = local_scores(words, patches)
    for i in range(2):
        for t in range(3):
            voters = [w for w in range(5) if words.votes_TW[t, w]]
            table = [[float(patches.features_BPD[i, p] @ words.features_TWD[t, w]) for w in voters] for p in range(7)]
            assert float(by_words[i, t]) == pytest.approx(np.mean([max(row) for row in table]), abs=1e-4)
            best = [max(row[k] for row in table) for k in range(len(voters))]
            assert float(by_patches[i, t]) == pytest.approx(np.mean(best), abs=1e-4)


def test_stop_words_and_padding_do_not_vote(trained: tuple[Config, Paths]) -> None:
    model = AlignmentModel.load(trained[1].alignment)
    words = model.encode_words(["No effusion is seen.", "Severe cardiomegaly of the heart, there."])
    voting = [
        [w for w, v in zip(names, row, strict=False) if v]
        for names, row in zip(words.words, words.votes_TW, strict=True)
    ]
    assert voting == [["effusion"], ["Severe", "cardiomegaly", "heart"]]


def test_keypatches_are_ranked_private_and_one_a_cell(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    model, codebook = AlignmentModel.load(paths.alignment), VisualCodebook.load(paths.alignment / "codebook")
    assert int(codebook.patients_E.min()) >= config.models.alignment.codebook_min_patients
    found = codebook.keypatches(model, ["severe cardiomegaly", "of the"], 6)
    assert found[1] == [], "no word votes, no keypatch"
    scores = [patch.score for patch in found[0]]
    assert scores == sorted(scores, reverse=True)
    assert len({patch.cell for patch in found[0]}) == 6
    assert {patch.word for patch in found[0]} <= {"severe", "cardiomegaly"}
    for patch in found[0]:
        assert (patch.cell, patch.code) == (int(codebook.cells_E[patch.entry]), int(codebook.codes_E[patch.entry]))


def test_training_needs_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `medsynth corpus` first"):
        read_pairs(Paths(tmp_path), "train")


def test_a_model_that_hardly_learnt_is_named(caplog: pytest.LogCaptureFixture) -> None:
    llm._warn_of_noise(5.3, 256, 73)
    assert "its images will be noise. It needs more steps, or more pairs than 73" in caplog.text
    caplog.clear()
    llm._warn_of_noise(1.3, 256, 4000)
    assert not caplog.text
