"""Networks that tell patients apart, on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.reidentification import load_reidentifier
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config


def images(n: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8))


@torch.inference_mode()
def test_the_siamese_network_is_chexgenbenchs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = resnet50(weights=None, num_classes=128).eval()
    end = nn.Linear(128, 1)
    state = {f"model.{name}": value for name, value in trunk.state_dict().items()}
    torch.save(state | {f"fc_end.{name}": value for name, value in end.state_dict().items()}, tmp_path / "reid.pth")
    net = load_reidentifier("siamese:reid.pth", workspace_paths(tmp_path))
    two = images(2, 224)
    outputs = torch.sigmoid(trunk(two[:, None].expand(-1, 3, -1, -1) / 255))
    expected = torch.sigmoid(end((outputs[0] - outputs[1]).abs()))
    one, other = net.encode(two).split(1)
    torch.testing.assert_close(net.scores(one, other), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.scores(one, other), net.scores(other, one))
    torch.testing.assert_close(net.scores(one, one), torch.sigmoid(end.bias))
    assert net.same_patient == 0.5


def test_what_isnt_the_network_is_one_clear_error(tmp_path: Path) -> None:
    paths = workspace_paths(tmp_path)
    with pytest.raises(InputError, match="no re-identification weights there"):
        load_reidentifier("siamese:away.pth", paths)
    torch.save({"model.conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the Siamese ResNet-50 of CheXGenBench"):
        load_reidentifier("siamese:other.pth", paths)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="not a state_dict"):
        load_reidentifier("siamese:list.pth", paths)
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="not readable as re-identification weights, which are a state_dict"):
        load_reidentifier("siamese:pickled.pth", paths)


@torch.inference_mode()
def test_the_stand_in_knows_no_patient(trained: tuple[Config, Paths]) -> None:
    net = load_reidentifier("judge", trained[1])
    assert (net.side, net.same_patient) == (32, None)
    seen = net.encode(images(3, net.side))
    torch.testing.assert_close(net.scores(seen, seen), torch.ones(3))
    assert (net.scores(seen[:1], seen[1:2]) < 1).all()
