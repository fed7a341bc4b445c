"""Networks that re-identify patients: the published one against its own forward pass, ours on films whose patients are
plain to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms import functional as transforms

from medsynth_core.config import Paths
from medsynth_core.config.entries import check_entry
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.models import reidentification
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.reidentification import FEATURES, PatientEncoder, VerificationNetwork
from medsynth_core.models.settings import OptimiserConfig
from medsynth_core.privacy.settings import ATTACKERS
from medsynth_core.progress import silent
from medsynth_core.training import reidentification as training
from medsynth_core.training.pairs import Pairs, read_pairs
from medsynth_core.training.reidentification import contrastive_loss, series_of, trained_encoder
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.tree import Config

SIDE = 32


class Siamese(nn.Module):
    """The network as its authors wrote it: names of its weights, and how a pair is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.model = resnet50(weights=None)
        self.model.fc = nn.Linear(2048, 128)
        self.fc_end = nn.Linear(128, 1)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        first, second = (torch.sigmoid(self.model(films)) for films in (one, other))
        return self.fc_end(torch.abs(first - second))


@pytest.fixture(scope="module")
def siamese() -> Siamese:
    torch.manual_seed(0)
    return Siamese().eval()


def saved(siamese: nn.Module, path: Path, **about: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in siamese.state_dict().items()}, path, about or None)
    return path


def films(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)


@pytest.mark.parametrize("scale", ["unit", "imagenet"])
@torch.inference_mode()
def test_the_published_network_scores_pairs_as_its_authors_do(siamese: Siamese, scale: str, tmp_path: Path) -> None:
    network = VerificationNetwork.load(saved(siamese, tmp_path / "net.safetensors", side=str(SIDE), scale=scale))
    images = films(4)
    grey = torch.stack([transforms.to_tensor(image).expand(3, -1, -1) for image in images])
    if scale == "imagenet":
        grey = transforms.normalize(grey, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    features = network(to_inputs(images, torch.device("cpu"))).numpy()
    theirs = np.array([[float(siamese(grey[[i]], grey[[j]])) for j in range(4)] for i in range(4)])
    assert network.logits(features, features) == pytest.approx(theirs, abs=1e-4)
    distances = network.distances(features, features)
    assert distances == pytest.approx(-np.log(1 / (1 + np.exp(-theirs))), abs=1e-4)
    assert (distances >= 0).all()


def test_only_its_safetensors_file_is_opened(siamese: Siamese, tmp_path: Path) -> None:
    pickled = tmp_path / "net.pth"
    torch.save(siamese.state_dict(), pickled)
    bare, odd = (
        saved(siamese, tmp_path / "bare"),
        saved(siamese, tmp_path / "odd", side="224", scale="minus one to one"),
    )
    other = saved(resnet50(weights=None), tmp_path / "other", side="224", scale="unit")
    for path, said in {
        pickled: r"pickled files, which aren't opened: help\(medsynth_core.models.reidentification\)",
        bare: "with the metadata `side` and `scale`",
        odd: "expected unit or imagenet",
        other: "not Packhäuser's Siamese ResNet-50",
        tmp_path / "none": "no weights of a re-identification network there",
    }.items():
        with pytest.raises(InputError, match=said):
            VerificationNetwork.load(path)
    assert "save_file(state" in (reidentification.__doc__ or "")


def test_a_wrong_file_is_said_before_a_run(tmp_path: Path, trained: tuple[Config, Paths]) -> None:
    with pytest.raises(InputError, match="no weights of a re-identification network"):
        check_entry(ATTACKERS, f"reidentification:{tmp_path / 'none'}", trained[1])
    check_entry(ATTACKERS, "reidentification", trained[1])
    with pytest.raises(ConfigError, match=r"privacy.attackers: 'pixels:x' names a place, but pixels takes none"):
        check_entry(ATTACKERS, "pixels:x", trained[1])
    with pytest.raises(ConfigError, match=r"privacy.attackers: there is no 'likelyhood'; did you mean 'likelihood'"):
        configure(["privacy.attackers=[likelyhood]"])
    with pytest.raises(ConfigError, match="named twice"):
        configure(["privacy.attackers=[judge, judge]"])


def test_the_contrastive_loss_by_closed_form() -> None:
    """Two patients at right angles, both films of each at one place: the partner's logit is 10, others' are 0."""
    places = torch.eye(2).repeat(2, 1)
    wanted = np.log(1 + 2 * np.exp(-10))
    assert float(contrastive_loss(places, torch.tensor([0, 1]))) == pytest.approx(wanted, abs=1e-6)
    lost = contrastive_loss(torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]]), torch.tensor([0, 1]))
    assert float(lost) == pytest.approx(np.log(2 + np.exp(10)), abs=1e-4), "each is at the other's place"


def test_a_patient_who_is_there_twice_is_no_stranger_to_himself() -> None:
    places = nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    places[[1, 4]] = places[[0, 3]]
    twice, strangers = (float(contrastive_loss(places, torch.tensor(who))) for who in ([7, 7, 2], [7, 8, 2]))
    assert twice < strangers


@pytest.fixture(scope="module")
def plain(trained: tuple[Config, Paths]) -> Pairs:
    return read_pairs(trained[1], "judge")


def test_series_are_of_one_patient_and_one_view(plain: Pairs) -> None:
    frontal, lateral = (replace(plain.conditions[0], view=view) for view in ("frontal", "lateral"))
    pairs = replace(
        plain.take([0, 1, 2, 3]), patients=["b", "a", "a", "a"], conditions=[frontal, frontal, lateral, frontal]
    )
    assert [(each.patient, each.films) for each in series_of(pairs)] == [("a", (1, 3)), ("a", (2,)), ("b", (0,))]


def test_what_it_learnt_from_decides_whether_it_is_trained_again(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path, trained[1].places)
    config = OptimiserConfig(steps=2, batch_size=4, learning_rate=1e-3, warmup_steps=1)
    first = trained_encoder((8, 8), config, 0, "cpu", paths, silent)
    pixels = to_inputs(films(3), torch.device("cpu"))
    assert first(pixels).shape == (3, FEATURES)
    assert first(pixels).norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert torch.allclose(first(pixels), first(pixels / 2 + 0.1), atol=0.05), "exposure is taken out"
    assert torch.allclose(first(pixels), first(pixels.flip(3)), atol=1e-5), "mirroring hides nobody"
    assert not list(paths.checkpoints.glob("*"))
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("is kept"))
    again = trained_encoder((8, 8), config, 0, "cpu", paths, silent)
    assert torch.equal(again(pixels), first(pixels))
    with pytest.raises(pytest.fail.Exception, match="is kept"):
        trained_encoder((8, 8), config, 1, "cpu", paths, silent)
    monkeypatch.setattr(training, "FEWEST", 10_000)
    with pytest.raises(InputError, match=r"can't learn from \d+ patients.*raise corpus.judge_fraction"):
        trained_encoder((8, 16), config, 0, "cpu", paths, silent)


def test_it_learns_who_is_who(trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Films whose only feature is a patient's stripes: those of patients that it never saw are told apart."""

    def drawn(patients: range, seed: int) -> np.ndarray:
        draw = np.random.default_rng(seed)
        stripes = np.stack([np.random.default_rng(patient).random(8).repeat(4) for patient in patients])
        images = stripes[:, None, :] * np.ones((1, SIDE, 1)) + draw.normal(0, 0.05, (len(patients), SIDE, SIDE))
        return np.rint(200 * images.clip(0, 1)).astype(np.uint8)

    learnt = np.concatenate([drawn(range(60), 1), drawn(range(60), 2)])
    plain = read_pairs(trained[1], "judge").take([0] * 120)
    pairs = replace(plain, patients=[f"p{place % 60}" for place in range(120)], rows=np.arange(120))
    monkeypatch.setattr(training, "read_pairs", lambda *_: pairs)
    monkeypatch.setattr(Pairs, "pixels", lambda _, picks: to_inputs(learnt[picks], torch.device("cpu")).numpy())
    config = OptimiserConfig(steps=40, batch_size=24, learning_rate=3e-3, warmup_steps=5)
    encoder = trained_encoder((8, 16), config, 0, "cpu", Paths(tmp_path, trained[1].places), silent)
    with torch.inference_mode():
        one, other = (encoder(to_inputs(drawn(range(100, 140), seed), torch.device("cpu"))) for seed in (3, 4))
    assert ((one @ other.T).argmax(1) == torch.arange(40)).float().mean() > 0.8


def test_a_kept_network_says_what_it_is(tmp_path: Path) -> None:
    encoder = PatientEncoder((8, 8)).eval()
    encoder.save(tmp_path / "net", "key")
    assert PatientEncoder.load(tmp_path / "net", "another") is None
    loaded = PatientEncoder.load(tmp_path / "net", "key")
    assert loaded is not None
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), loaded.parameters(), strict=True))
