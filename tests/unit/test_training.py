from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medsynth_core.config import Config, Paths
from medsynth_core.config.tree import OptimiserConfig, VQGANConfig
from medsynth_core.errors import InputError
from medsynth_core.models.alignment import AlignmentModel, Patches, Words, local_scores
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.codebook import VisualCodebook
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.progress import silent
from medsynth_core.training import llm, vqgan
from medsynth_core.training.loop import Trained, batch_indices, train
from medsynth_core.training.pairs import read_pairs


class KilledError(Exception):
    """Stands for a SIGKILL between two steps."""


def test_a_resumed_training_ends_in_the_same_weights(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, paths = trained
    again = Paths(tmp_path)
    again.corpus.parent.mkdir(parents=True)
    again.corpus.symlink_to(paths.corpus)
    step = vqgan._Trainer.step

    def until_five(self: vqgan._Trainer, number: int) -> object:
        if number == 5:
            raise KilledError
        return step(self, number)

    monkeypatch.setattr(vqgan._Trainer, "step", until_five)
    with pytest.raises(KilledError):
        vqgan.run(config, again, silent)
    assert not again.vqgan.exists()
    monkeypatch.undo()
    report = vqgan.run(config, again, silent)
    assert report.resumed_from == 4
    assert report.digest == model_digest(paths.vqgan)


@pytest.mark.parametrize("killed_at", [None, 5])
def test_the_weights_with_the_lowest_held_out_loss_stay(tmp_path: Path, killed_at: int | None) -> None:
    module = torch.nn.Linear(1, 1)
    losses = {2: 0.9, 4: 0.3, 6: 0.5, 7: 0.4}

    def step(number: int) -> dict[str, torch.Tensor]:
        if number == killed_at:
            raise KilledError
        module.weight.data.fill_(number + 1)
        return {"loss": torch.zeros(())}

    def run() -> Trained:
        return train(
            step,
            OptimiserConfig(steps=7, batch_size=1, learning_rate=1.0, checkpoint_every=2),
            key="key",
            seed=0,
            modules={"model": module},
            optimisers={},
            checkpoint=tmp_path / "model.safetensors",
            progress=silent,
            validate=lambda: losses[int(module.weight.item())],
        )

    if killed_at is not None:
        with pytest.raises(KilledError):
            run()
        module.weight.data.zero_()
        killed_at = None
    result = run()
    assert result.best_step == 4
    assert module.weight.item() == 4


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
    assert "its images will be noise. 73 training pairs are too few" in caplog.text
    caplog.clear()
    llm._warn_of_noise(1.3, 256, 4000)
    assert not caplog.text
