import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTImageProcessor, ViTModel

from medsynth_core.config import Paths
from medsynth_core.config.section import Tracker
from medsynth_core.corpus.images import to_pixels
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.errors import ConfigError, InputError, StateError
from medsynth_core.models.alignment import AlignmentModel, Patches, Words, alignment_losses, local_scores
from medsynth_core.models.artifact import model_digest
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.codebook import Keypatch, VisualCodebook
from medsynth_core.models.condition import Condition, RequestedFinding
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.settings import DistilConfig, OptimiserConfig, VQGANConfig
from medsynth_core.models.text import load_tokenizer
from medsynth_core.models.tokenizers.vqgan import VQGAN, lapped
from medsynth_core.progress import silent
from medsynth_core.prompts.adherence import adherence_problem
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.training import alignment, classifier, distil, judge, llm, loop, vqgan
from medsynth_core.training.curve import forecast
from medsynth_core.training.examples import Examples
from medsynth_core.training.features import FeatureDistance, ImageEncoder
from medsynth_core.training.jitter import DRAWS, jittered
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
from medsynth_core.training.settings import TrainingParams
from medsynth_core.vocabulary.phrasing import Phrasing
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config
from tests.conftest import tiny

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


@pytest.mark.parametrize(("stage", "step"), [(classifier, 5), (judge, 5), (vqgan, 5), (alignment, 3), (llm, 3)])
def test_a_resumed_training_ends_in_the_same_weights(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: ModuleType, step: int
) -> None:
    config, paths = trained
    name = stage.__name__.rpartition(".")[2]
    again = workspace_paths(tmp_path)
    for made in ("corpus", "vocabulary", "classifier", "judge", "vqgan", "alignment"):
        folder = paths[made]
        if made != name:
            link = tmp_path / folder.relative_to(paths.root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
    _killed_at(step, monkeypatch)
    with pytest.raises(KilledError):
        perform(name, config, again.root, silent)
    assert not again[name].exists()
    monkeypatch.undo()
    report = perform(name, config, again.root, silent)
    assert report.resumed_from == step - 1
    assert report.digest == model_digest(paths[name])


@pytest.mark.parametrize("name", ["classifier", "judge", "vqgan", "alignment", "llm"])
def test_a_finished_training_goes_on_with_other_settings(
    trained: tuple[Config, Paths], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained[1].root, tmp_path, dirs_exist_ok=True)
    steps = getattr(trained[0].models, name).train.steps

    def wanting(more: int, **others: Any) -> Config:
        setting = getattr(trained[0].models, name)
        longer = setting.model_copy(
            update={"train": setting.train.model_copy(update={"steps": steps + more}), **others}
        )
        return trained[0].model_copy(update={"models": trained[0].models.model_copy(update={name: longer})})

    with pytest.raises(ConfigError, match=rf"models\.{name}\.train\.steps={steps}, and {steps} steps are behind"):
        perform(name, wanting(0), tmp_path, silent, resume=True)
    report = perform(name, wanting(2), tmp_path, silent, resume=True)
    assert (report.resumed_from, report.steps) == (steps, steps + 2)
    kept = [json.loads(line) for line in (tmp_path / "models" / name / "metrics.jsonl").read_text().splitlines()]
    assert kept[0]["step"] == 0
    assert perform(name, wanting(2), tmp_path, silent).resumed_from == 0, "anew, without being asked to go on"

    _killed_at(steps + 4, monkeypatch)
    with pytest.raises(KilledError):
        perform(name, wanting(9), tmp_path, silent, resume=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=rf"{steps + 4} steps are behind .*{name}\.safetensors"):
        perform(name, wanting(4), tmp_path, silent, resume=True)
    report = perform(name, wanting(6), tmp_path, silent, resume=True)
    assert report.resumed_from == steps + 4, "of the unfinished one"


def test_a_training_does_not_go_on_with_weights_of_another_shape(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    shutil.copytree(trained[1].root, tmp_path, dirs_exist_ok=True)
    settings = trained[0].models.llm.model_copy(
        update={"hidden": 24, "train": OptimiserConfig(steps=9, batch_size=4, learning_rate=1e-3)}
    )
    config = trained[0].model_copy(update={"models": trained[0].models.model_copy(update={"llm": settings})})
    with pytest.raises(StateError, match=r"llm\.safetensors: its weights don't fit models\.llm .* delete it to train"):
        perform("llm", config, tmp_path, silent, resume=True)


class Line(torch.nn.Linear):
    """One weight, whose value says how many steps were taken."""

    def __init__(self) -> None:
        super().__init__(1, 1, bias=False)
        torch.nn.init.zeros_(self.weight)


def _fit(
    checkpoint: Path,
    settings: OptimiserConfig,
    module: torch.nn.Module,
    loss: Loss,
    tracker: Tracker | None = None,
    **options: Any,
) -> Trained:
    return train(
        [Objective("line", module, loss)],
        32,
        settings,
        accelerator=make_accelerator(TrainingParams(0, "float32", "cpu", tracker)),
        key="key",
        seed=0,
        checkpoint=checkpoint,
        progress=silent,
        **options,
    )


def _upwards(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    return {"total": -module(torch.ones(1, 1)).sum()}


def test_a_training_can_be_followed_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = OptimiserConfig(steps=41, batch_size=1, learning_rate=1.0, checkpoint_every=20)
    losses = iter([0.9, 0.5, 0.7])
    checkpoint = tmp_path / "checkpoints" / "line.safetensors"
    _fit(checkpoint, settings, Line(), _upwards, "tensorboard", validate=lambda: next(losses))
    seen = EventAccumulator(str(tmp_path / "tracking" / "line")).Reload()
    assert [(each.step, round(each.value, 3)) for each in seen.Scalars("held_out")] == [(19, 0.9), (39, 0.5), (40, 0.7)]
    assert [each.step for each in seen.Scalars("rate")] == [0, 20, 40]


def test_a_tracker_that_is_not_installed_is_said_before_training() -> None:
    with pytest.raises(ConfigError, match=r"models\.tracker=wandb: its package isn't installed"):
        make_accelerator(TrainingParams(0, "float32", "cpu", "wandb"))


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
    model = VQGAN(VQGANConfig(channels=(8, 8), patch=1, codes=16, code_dim=4, linear=False))
    latents = torch.randn(2, 4, 3, 3)
    quantised = model.quantise(latents)
    for image, row, column in np.ndindex(2, 3, 3):
        distance = (model.codebook_KD - latents[image, :, row, column]).square().sum(1)
        assert quantised.codes_BLhw[image, 0, row, column] == distance.argmin()
    exact = model.codebook_KD.detach()[None, :9].permute(0, 2, 1).reshape(1, 4, 3, 3)
    assert float(model.quantise(exact).commitment.detach()) == pytest.approx(0.0, abs=1e-10)


def test_each_level_codes_what_those_before_it_leave_over() -> None:
    torch.manual_seed(0)
    model = VQGAN(VQGANConfig(channels=(8, 8), patch=1, codes=16, levels=3, code_dim=4, linear=False))
    latents = torch.randn(2, 4, 3, 3)
    quantised = model.quantise(latents)
    left = latents.permute(0, 2, 3, 1)
    for level, codebook in enumerate(model.codebook_KD.chunk(3)):
        numbers = quantised.codes_BLhw[:, level] - 16 * level
        assert torch.equal(numbers, torch.cdist(left, codebook).argmin(-1))
        left = left - codebook[numbers]
    torch.testing.assert_close(quantised.latents_BDhw, latents - left.permute(0, 3, 1, 2))
    assert (model.codes, model.levels) == (48, 3)


def test_codes_are_ordered_level_by_level_and_decode_to_what_they_were_read_from() -> None:
    torch.manual_seed(0)
    settings = VQGANConfig(channels=(8, 8, 8), patch=1, codes=16, levels=2, code_dim=4, grain_channels=0, linear=False)
    model = VQGAN(settings).eval()
    pixels = torch.rand(3, 1, 16, 16) * 2 - 1
    codes = model.encode(pixels)
    assert codes.shape == (3, 2 * 16)
    assert (codes[:, :16] < 16).all()
    assert (codes[:, 16:] >= 16).all()
    torch.testing.assert_close(model.decode(codes), model(pixels).plain_B1HW.detach().clamp(-1, 1))
    assert torch.equal(model.decode(codes % 16), model.decode(codes)), "a code of another level counts by its number"


def test_pixels_are_taken_together_and_given_back() -> None:
    torch.manual_seed(0)
    config = VQGANConfig(channels=(8, 8), patch=2, codes=16, code_dim=4, linear=False)
    model = VQGAN(config).eval()
    assert config.downsampling == model.downsampling == 4
    pixels = torch.rand(2, 1, 16, 16) * 2 - 1
    codes = model.encode(pixels)
    assert codes.shape == (2, 16)
    assert model.decode(codes).shape == pixels.shape


def test_codes_follow_what_they_stand_for() -> None:
    torch.manual_seed(0)
    model = VQGAN(VQGANConfig(channels=(8, 8), patch=1, codes=4, levels=2, code_dim=4, linear=False))
    assert not model.codebook_KD.requires_grad
    model.codebook_KD[:4] = torch.eye(4) * 3
    model.codebook_KD[4:] = torch.eye(4) * 0.1
    around = torch.eye(4)[:3] * 2.5 + 0.2
    latents = (around.repeat(12, 1) + 0.02 * torch.randn(36, 4)).view(1, 6, 6, 4).permute(0, 3, 1, 2)
    before = model.codebook_KD.clone()
    for _ in range(300):
        model.follow(latents, lambda tensor: tensor)
    torch.testing.assert_close(model.codebook_KD[:3], around, atol=0.02, rtol=0)
    assert torch.equal(model.codebook_KD[3], before[3]), "what stands for nothing stays"
    assert float(model.quantise(latents).commitment) < 1e-3


def test_a_linear_part_is_the_best_linear_code_before_the_first_step() -> None:
    phantoms = np.stack([phantom_study(0, index, 32).views[0].load() for index in range(60)])
    torch.manual_seed(0)
    settings = VQGANConfig(channels=(8, 8), codes=64, levels=2, code_dim=6, grain_channels=0)
    model, again = VQGAN(settings).eval(), VQGAN(settings).eval()
    for each in (model, again):
        vqgan.fit_linear(each, phantoms[:40], seed=3)
    assert torch.equal(model.codebook_KD, again.codebook_KD)
    basis = model.lapped_basis_D1ff.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6), atol=1e-4, rtol=0)

    held_out = to_inputs(phantoms[40:], torch.device("cpu"))
    cells = torch.nn.functional.unfold(lapped(held_out, 4), 4, stride=4).transpose(1, 2)
    kept = (cells @ basis.T @ basis).transpose(1, 2)
    want = lapped(torch.nn.functional.fold(kept, 32, 4, stride=4), 4, back=True)
    with torch.no_grad():
        torch.testing.assert_close(model.decode_latents(model.encode_to_latents(held_out)), want, atol=1e-4, rtol=0)
        quantised = model.quantise(model.encode_to_latents(held_out)).latents_BDhw
        left = (model.decode_latents(quantised) - want).square().mean()
    assert float(left) < 0.02 * float(want.var())
    few = VQGAN(settings)
    vqgan.fit_linear(few, phantoms[:1, :8, :8], seed=3)  # less than there are codes and components
    assert bool(few.codebook_KD.isfinite().all())


def test_a_code_that_does_not_fit_fades_out_over_the_edges_of_its_cell() -> None:
    pixels = torch.rand(2, 1, 32, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.inference_mode():
        lapped(pixels, 8)
    turned = lapped(pixels, 8)
    turned.sum().backward()
    torch.testing.assert_close(lapped(turned, 8, back=True), pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.square().sum(), pixels.square().sum())

    cell = torch.zeros(1, 1, 32, 32)
    cell[..., 8:16, 8:16] = 1.0
    faded = lapped(cell, 8, back=True)[0, 0]
    assert float(faded[:4].abs().max() + faded[20:].abs().max()) == 0, "it reaches half a cell, no further"
    assert float(faded.diff(dim=0).abs().max()) < 0.4, "where a sharp edge has 1"


def test_grain_follows_from_the_codes_of_the_image_alone() -> None:
    torch.manual_seed(0)
    settings = VQGANConfig(channels=(8, 8), patch=1, codes=16, code_dim=4, grain_channels=8, linear=False)
    model = VQGAN(settings).eval()
    codes = torch.randint(0, 16, (3, 16))
    together = model.decode(codes)
    alone = torch.cat([model.decode(each[None]) for each in codes])
    torch.testing.assert_close(together, alone)
    torch.manual_seed(1)
    assert torch.equal(model.decode(codes), together)
    assert model(torch.zeros(1, 1, 8, 8)).plain_B1HW.shape == (1, 1, 8, 8)


def test_the_spectral_term_tells_blur_and_specks_from_grain() -> None:
    torch.manual_seed(0)
    film = torch.rand(8, 1, 64, 64) * 0.2 - 0.1
    other = torch.rand(8, 1, 64, 64) * 0.2 - 0.1
    blurred = torch.nn.functional.avg_pool2d(film, 5, 1, 2)
    specks = blurred.clone()
    specks[:, :, ::16, ::16] += 2.0
    edge = film.clone()
    edge[..., 32:] += 1.0
    soft = torch.nn.functional.avg_pool2d(edge, (1, 5), 1, (0, 2)) + (
        film - torch.nn.functional.avg_pool2d(film, 3, 1, 1)
    )
    same = float(vqgan.spectral_distance(other, film))
    assert same < 0.6
    assert float(vqgan.spectral_distance(blurred, film)) > 5 * same
    assert float(vqgan.spectral_distance(specks, film)) > 5 * same
    where = (vqgan._log_power(soft) - vqgan._log_power(edge)).abs().mean((0, 1, 3))
    assert where[3] > 2 * where[0], "grain elsewhere doesn't pay for an edge"


def test_jitter_moves_images_by_their_own_draws_alone() -> None:
    pixels = torch.rand(4, 1, 32, 32) * 2 - 1
    draws = np.random.default_rng(0).random((4, DRAWS))
    moved = jittered(pixels, draws, 1.0)
    assert moved.shape == pixels.shape
    assert (moved.abs() <= 1).all()
    assert (moved - pixels).abs().mean() > 0.05
    torch.testing.assert_close(jittered(pixels[2:3], draws[2:3], 1.0), moved[2:3])
    assert jittered(pixels, draws, 0.0) is pixels
    still = jittered(pixels, np.full((4, DRAWS), 0.5), 1.0)
    torch.testing.assert_close(still, pixels.clamp(-1 + 2e-4, 1.0), atol=1e-3, rtol=0)


def _aligned(n: int) -> tuple[Words, Patches]:
    torch.manual_seed(0)
    shapes = ((n, 5, 8), (n, 8), (n, 7, 8), (n, 8))
    features = [normalize(torch.randn(*shape), dim=-1) for shape in shapes]
    return Words(features[0], torch.rand(n, 5) > 0.3, [["w"] * 5] * n, features[1]), Patches(features[2], features[3])


def _score(words: Words, patches: Patches, image: int, text: int) -> float:
    """The mean over voting words of the best patch, word by word."""
    voters = [w for w in range(5) if words.votes_TW[text, w]]
    cosine = [[float(patches.features_BPD[image, p] @ words.features_TWD[text, w]) for p in range(7)] for w in voters]
    return float(np.mean([max(row) for row in cosine]))


def test_alignment_scores_and_losses_equal_a_double_loop() -> None:
    words, patches = _aligned(3)
    scores = local_scores(words, patches)
    same = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    losses = alignment_losses(words, patches, torch.tensor(5.0), same, 0.5)
    cosines = [[float(patches.global_BD[i] @ words.global_TD[t]) for t in range(3)] for i in range(3)]
    for name, weight, table in (
        ("local", 1.0, [[_score(words, patches, i, t) for t in range(3)] for i in range(3)]),
        ("global", 0.5, cosines),
    ):
        expected = 0.0
        for i in range(3):
            row, column = [5 * v for v in table[i]], [5 * line[i] for line in table]
            for scored in (row, column):
                logs = [v - np.log(np.sum(np.exp(scored))) for v in scored]
                expected -= np.mean([logs[j] for j in range(3) if same[i, j]]) / 6
        assert float(losses[name]) == pytest.approx(weight * expected, abs=1e-5)
        if name == "local":
            np.testing.assert_allclose(scores.numpy(), table, atol=1e-5)


def test_stop_words_and_degrees_do_not_vote(trained: tuple[Config, Paths]) -> None:
    model = AlignmentModel.load(trained[1]["alignment"])
    words = model.encode_words(["No effusion is seen.", "Severe cardiomegaly of the heart, there."])
    voting = [
        [w for w, v in zip(names, row, strict=False) if v]
        for names, row in zip(words.words, words.votes_TW, strict=True)
    ]
    assert voting == [["effusion"], ["cardiomegaly", "heart"]]


def test_a_patch_sees_its_own_place_alone(trained: tuple[Config, Paths]) -> None:
    model = AlignmentModel.load(trained[1]["alignment"])
    image = torch.rand(1, 1, 32, 32) * 2 - 1
    changed = image.clone()
    changed[..., 16:, :] = 0.3
    with torch.inference_mode():
        before, after = model.encode_patches(image), model.encode_patches(changed)
    moved = (before.features_BPD - after.features_BPD).abs().amax(-1).view(model.side, model.side).amax(1) > 1e-6
    assert not moved[: model.side // 2 - 1].any()
    assert moved[model.side // 2 :].all()
    assert (before.global_BD - after.global_BD).abs().max() > 1e-4


def test_keypatches_are_ranked_and_one_a_cell(trained: tuple[Config, Paths]) -> None:
    model, codebook = (
        AlignmentModel.load(trained[1]["alignment"]),
        VisualCodebook.load(trained[1]["alignment"] / "codebook"),
    )
    found = codebook.keypatches(model, ["severe cardiomegaly in heart", "of the", "cardiomegaly, left effusion"], 6)
    assert found[1] == [], "no word votes, no keypatch"
    scores = [patch.score for patch in found[0]]
    assert scores
    assert scores == sorted(scores, reverse=True)
    assert {patch.word for patch in found[0]} <= {"cardiomegaly", "heart"}
    for patches in found:
        assert len({patch.cell for patch in patches}) == len(patches) <= 6
        for patch in patches:
            assert (patch.cell, patch.code) == (int(codebook.cells_E[patch.entry]), int(codebook.codes_E[patch.entry]))
    alone = codebook.keypatches(model, ["cardiomegaly", "left effusion"], 6)
    want: dict[int, int] = {}
    for turn in zip_longest(*alone):
        for patch in filter(None, turn):
            want.setdefault(patch.cell, patch.entry)
    assert [patch.entry for patch in found[2]] == list(want.values())[:6], (
        "two findings take turns, a cell is given once"
    )


def test_an_entry_is_the_patch_that_was_aligned_in_its_own_image(trained: tuple[Config, Paths]) -> None:
    """Catches crops in another order than their similarities, and patches encoded beside strangers."""
    _, paths = trained
    model, vqgan = AlignmentModel.load(paths["alignment"]), VQGAN.load(paths["vqgan"])
    codebook, corpus = VisualCodebook.load(paths["alignment"] / "codebook"), Corpus.open(paths["corpus"])
    for entry in range(0, len(codebook), 17):
        row = codebook.rows_E[entry : entry + 1].numpy()
        pixels = torch.from_numpy(to_pixels(corpus.images(row)))[:, None]
        cell = int(codebook.cells_E[entry])
        with torch.inference_mode():
            patches = model.encode_patches(pixels)
        torch.testing.assert_close(codebook.features_ED[entry], patches.features_BPD[0, cell], atol=1e-5, rtol=0)
        torch.testing.assert_close(codebook.wholes_ED[entry], patches.global_BD[0], atol=1e-5, rtol=0)
        assert int(codebook.codes_E[entry]) == int(vqgan.encode(pixels).flatten()[cell])


def test_a_keypatch_stands_for_several_training_patients(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    codebook, vqgan, pairs = (
        VisualCodebook.load(paths["alignment"] / "codebook"),
        VQGAN.load(paths["vqgan"]),
        read_pairs(paths, "train"),
    )
    assert set(codebook.rows_E.tolist()) <= set(pairs.rows.tolist()), "no held-out image"
    codes_NP = vqgan.encode(torch.from_numpy(pairs.flat_pixels(0, len(pairs))))
    for entry in range(len(codebook)):
        alike = codes_NP[:, codebook.cells_E[entry]] == codebook.codes_E[entry]
        patients = {pairs.patients[i] for i in alike.nonzero().flatten().tolist()}
        assert len(patients) == int(codebook.patients_E[entry]) >= config.models.alignment.codebook_min_patients


def test_without_look_alikes_there_are_no_keypatches(
    trained: tuple[Config, Paths], caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = trained
    model, vqgan, pairs = AlignmentModel.load(paths["alignment"]), VQGAN.load(paths["vqgan"]), read_pairs(paths, "val")
    settings = config.models.alignment.model_copy(update={"codebook_min_patients": 1000})
    codebook = alignment.build_codebook(model, vqgan, pairs, settings, "")
    assert len(codebook) == 0
    assert codebook.keypatches(model, ["cardiomegaly"], 4) == codebook.random_keypatches(["cardiomegaly"], 4) == [[]]
    assert "the language model gets no keypatches" in caplog.text


def test_dead_codes_move_onto_latents_and_used_ones_stay(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    settings = config.models.vqgan
    model, corpus = VQGAN.load(paths["vqgan"]), Corpus.open(paths["corpus"])
    rows = np.asarray(corpus.views("train").column("row"), dtype=np.int64)[:64]
    with torch.no_grad():
        model.codebook_KD[5:] = 1e3
    before = model.codebook_KD.detach().clone()
    accelerator = make_accelerator(TrainingParams(0, "float32", "cpu", None))
    terms = vqgan._Terms(model, vqgan.PatchDiscriminator(), settings, corpus, rows, torch.nn.ModuleDict(), accelerator)
    used = torch.bincount(model.encode(terms._pixels(rows)).flatten(), minlength=settings.codes) > 0
    terms.revive(0, 0)
    assert torch.equal(model.codebook_KD[used], before[used])
    assert (model.codebook_KD[~used].abs() < 1e2).all()


def test_a_tokenizer_that_makes_mush_says_so(
    trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = VQGAN.load(trained[1]["vqgan"]).config.model_copy(update={"linear": False})
    model, corpus = VQGAN(settings).eval(), Corpus.open(trained[1]["corpus"])
    splits = [np.asarray(corpus.views(split).column("row"), dtype=np.int64) for split in ("train", "val")]
    assert vqgan._fidelity_of_renderings(model, corpus, *splits) == {}, "too few held-out images"
    monkeypatch.setattr(vqgan, "MIN_IMAGES", 10)
    assert vqgan._fidelity_of_renderings(model, corpus, *splits)["fidelity"] < 0.1
    assert "which forbids to publish below release.min_fidelity.tokenizer=0.5" in caplog.text
    monkeypatch.setattr(vqgan, "as_rendered", lambda _, images_u8: images_u8)
    caplog.clear()
    assert vqgan._fidelity_of_renderings(model, corpus, *splits)["fidelity"] > 0.8
    assert not caplog.text


def test_the_adversarial_gradient_is_as_long_as_the_fidelity_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    fidelity, adversarial = (4.0 * weight).sum(), (0.5 * weight).sum()
    assert float(vqgan._adaptive_weight(fidelity, adversarial, weight)) == pytest.approx(8.0, rel=1e-3)


def test_feature_distance_is_relative_and_reaches_the_fake_alone(trained: tuple[Config, Paths]) -> None:
    distance = FeatureDistance(FindingClassifier.load(trained[1]["classifier"]))
    real = torch.rand(2, 1, 32, 32, requires_grad=True)
    fake = torch.rand(2, 1, 32, 32, requires_grad=True)
    assert float(distance(real, real).detach()) == 0.0
    distance(fake, real).backward()
    assert fake.grad is not None
    assert real.grad is None
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def _phrasing(paths: Paths) -> Phrasing:
    return Phrasing(Vocabulary.load(paths["vocabulary"] / "vocabulary.json"))


def _llm_loss(trained: tuple[Config, Paths], **changes: float) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the terms of a batch under other settings, and those of its samples without any conditioning."""
    paths = trained[1]
    model = ImageLanguageModel.load(paths["llm"])
    model.config = model.config.model_copy(update=changes)
    examples = Examples(
        read_pairs(paths, "val"),
        VQGAN.load(paths["vqgan"]),
        AlignmentModel.load(paths["alignment"]),
        VisualCodebook.load(paths["alignment"] / "codebook"),
        model.config,
        _phrasing(paths),
    )
    batch = Batch(0, 0, np.arange(6), np.arange(6))
    with torch.no_grad():
        losses = llm._loss(model, model, batch, examples)
        bare = model.image_loss([model.empty_prefix(Condition((), "frontal"))] * 6, examples.codes_NT[:6])
    return {name: float(value) for name, value in losses.items()}, {"image": float(bare)}


def test_dropped_conditioning_leaves_the_empty_prefix(trained: tuple[Config, Paths]) -> None:
    for changes in (
        {"condition_dropout": 1.0},
        {"condition_dropout": 0.0, "text_dropout": 1.0, "keypatch_dropout": 1.0},
    ):
        losses, bare = _llm_loss(trained, **changes)
        assert losses["image"] == pytest.approx(bare["image"], abs=1e-6)
    losses, bare = _llm_loss(trained, condition_dropout=0.0)
    assert abs(losses["image"] - bare["image"]) > 1e-6


def test_the_reverse_task_and_the_text_weigh_as_configured(trained: tuple[Config, Paths]) -> None:
    losses, _ = _llm_loss(trained, reverse_fraction=1.0)
    assert set(losses) == {"total", "report"}
    assert losses["total"] == pytest.approx(losses["report"])
    losses, _ = _llm_loss(trained, text_weight=0.5, condition_dropout=0.0)
    assert losses["total"] == pytest.approx(losses["image"] + 0.5 * losses["text"], abs=1e-5)
    losses, _ = _llm_loss(trained, text_weight=0.5, condition_dropout=1.0)
    assert losses["text"] == 0.0, "no sample of the batch has kept its text"


def test_the_words_of_held_out_reports_are_drawn(trained: tuple[Config, Paths]) -> None:
    picture = trained[1]["alignment"] / "words.png"
    with Image.open(picture) as image:
        assert min(image.size) > 500
    digest, content = model_digest(picture.parent), picture.read_bytes()
    try:
        picture.write_bytes(b"other")
        assert model_digest(picture.parent) == digest, "a picture is no part of a model"
    finally:
        picture.write_bytes(content)


def test_a_pretrained_text_encoder_is_loaded_saved_and_loaded_again(
    trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    """Of a kind that names its sub-words, as CXR-BERT does; each word is the mean of its pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "card", "##io", "##megaly", "effusion", "left"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), hidden_size=16, **shape)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    settings = trained[0].models.alignment.model_copy(update={"text_model": str(tmp_path / "bert")})
    model = AlignmentModel.fresh(settings, 8, load_tokenizer(tmp_path / "bert")).eval()
    encoded = model.encode_words(["left cardiomegaly"])
    assert encoded.words == [["left", "cardiomegaly"]]
    model.save(tmp_path / "saved")
    again = AlignmentModel.load(tmp_path / "saved").encode_words(["left cardiomegaly"])
    torch.testing.assert_close(again.features_TWD, encoded.features_TWD)
    with pytest.raises(InputError, match="text_model"):
        AlignmentModel.fresh(settings.model_copy(update={"text_model": str(tmp_path)}), 8, tokenizer)


def test_an_external_image_encoder_measures_distance(tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    distance = FeatureDistance(ImageEncoder(str(tmp_path)))
    real, fake = torch.rand(2, 1, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
    assert float(distance(real, real)) == 0.0
    assert float(distance(fake, real)) > 0.0
    with pytest.raises(InputError, match=r"the image encoder .* can't be loaded"):
        ImageEncoder(str(tmp_path / "away"))


def test_training_needs_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `medsynth corpus` first"):
        read_pairs(workspace_paths(tmp_path), "train")


def test_a_model_that_hardly_learnt_is_named(caplog: pytest.LogCaptureFixture) -> None:
    llm._warn_of_noise(5.3, 256, 73)
    assert "its images will be noise. It needs more steps, or more pairs than 73" in caplog.text
    caplog.clear()
    llm._warn_of_noise(1.3, 256, 4000)
    assert not caplog.text


def test_texts_are_written_as_prompts_are(trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of labels has no prose, so that a model that read it alone couldn't read prompts."""
    read: list[tuple[Condition, str]] = []
    prefix = ImageLanguageModel.prefix

    def noted(
        model: ImageLanguageModel, condition: Condition, text: str, keypatches: Sequence[Keypatch], wording: int = 0
    ) -> Prefix:
        read.extend([(condition, text)] if text else [])
        return prefix(model, condition, text, keypatches, wording)

    monkeypatch.setattr(ImageLanguageModel, "prefix", noted)
    reports = set(read_pairs(trained[1], "val").texts)
    _llm_loss(trained, condition_dropout=0.0, written_texts=1.0)
    assert len(read) == 6
    for condition, text in read:
        assert text not in reports
        asked = PromptRequest("p", tuple(RequestedFinding(**each) for each in condition.findings), "frontal")
        assert adherence_problem(text, asked) is None
    read.clear()
    _llm_loss(trained, condition_dropout=0.0)
    assert {text for _, text in read} <= reports
    with pytest.raises(ConfigError, match="written_texts is of condition=report"):
        tiny(models={"llm": {"condition": "labels", "written_texts": 0.5}})


def test_a_distilled_model_writes_without_guidance_what_it_wrote_with_it(
    trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    paths = trained[1]
    model, tokenizer = ImageLanguageModel.load(paths["llm"]), VQGAN.load(paths["vqgan"])
    alignment_model, codebook = (
        AlignmentModel.load(paths["alignment"]),
        VisualCodebook.load(paths["alignment"] / "codebook"),
    )
    pairs = read_pairs(paths, "train")
    examples = Examples(pairs, tokenizer, alignment_model, codebook, model.config, _phrasing(paths))
    picks = list(range(16))
    own = [examples.prefix(model, pick) for pick in picks]
    none = [model.empty_prefix(examples.pairs.conditions[pick]) for pick in picks]
    codes = examples.codes_NT[picks]
    unguided = distil.guided_shares(model, own, none, codes, 1.0)
    torch.testing.assert_close(unguided, model.token_logits(own, codes).detach().softmax(-1))
    wanted = distil.guided_shares(model, own, none, codes, 4.0)

    def off() -> float:
        with torch.no_grad():
            written = model.token_logits(own, codes).log_softmax(-1)
            assert float(model(own, codes, wanted_BTK=wanted)["image"]) == pytest.approx(
                -float((wanted * written).sum(-1).mean()), rel=1e-4
            )
        return float((wanted * (wanted.log() - written)).sum(-1).mean())

    before = off()
    trained_more = distil.distil(
        model,
        examples,
        examples,
        DistilConfig(steps=60, guidance=4.0, learning_rate=1e-2),
        accelerator=loop.make_accelerator(TrainingParams(0, "float32", "cpu", None)),
        key="",
        seed=0,
        checkpoint=tmp_path / "distil.safetensors",
        progress=silent,
    )
    assert (trained_more.steps, model.training) == (60, False)
    assert off() < 0.5 * before


def test_a_training_is_forecast_from_its_held_out_losses() -> None:
    curve = [{"step": step - 1, "held_out": 6.0 - 0.5 * np.log(step)} for step in (100, 200, 300, 400)]
    assert forecast(curve[:2], 1000) is None
    assert forecast(curve, 1000) == pytest.approx(6.0 - 0.5 * np.log(1000))
    rising = [*curve, *({"step": step - 1, "held_out": 4.0 + step / 1000} for step in (500, 600, 700, 800))]
    assert forecast(rising, 1000) == pytest.approx(min(row["held_out"] for row in rising)), "the best is kept"
