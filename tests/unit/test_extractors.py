"""Feature extractors on tiny or random weights, against what they stand for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_fid import inception as fid
from torchvision.models import inception_v3
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.extractors import load_extractor
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.judge import Judge
from medsynth_core.models.settings import ClassifierConfig
from medsynth_core.workspace.check import check
from medsynth_core.workspace.params import configure
from medsynth_core.workspace.stages import workspace_paths

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8))


@torch.inference_mode()
def features(name: str, folder: Path) -> torch.Tensor:
    found: torch.Tensor = load_extractor(name, workspace_paths(folder))(IMAGES)
    assert found.dtype == torch.float32
    return found


@pytest.fixture
def inception_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights in the place where pytorch-fid looks for its own."""
    net = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    net.Mixed_7b, net.Mixed_7c = fid.FIDInceptionE_1(1280), fid.FIDInceptionE_2(2048)
    path = tmp_path / "hub" / "checkpoints" / Path(fid.FID_WEIGHTS_URL).name
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return path


@torch.inference_mode()
def test_inception_is_pytorch_fids(inception_weights: Path, tmp_path: Path) -> None:
    found = features("inception", tmp_path)
    assert found.shape == (3, 2048)
    reference = fid.InceptionV3().eval()(IMAGES[:, None].expand(-1, 3, -1, -1) / 255)[0][:, :, 0, 0]
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    inception_weights.rename(tmp_path / "own.pth")
    assert torch.equal(features("inception:own.pth", tmp_path), found)


def test_missing_and_damaged_weights_are_one_clear_error(
    inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no Inception weights there; fetch https"):
        features("inception:away.pth", tmp_path)
    torch.save({"fc.weight": torch.zeros(1)}, inception_weights)
    with pytest.raises(InputError, match="not pytorch-fid's Inception"):
        features("inception", tmp_path)
    inception_weights.write_bytes(b"no weights")
    with pytest.raises(InputError, match="not pytorch-fid's Inception"):
        features("inception", tmp_path)
    for own in ("judge", "classifier"):
        with pytest.raises(InputError, match="no classifier model there"):
            features(own, tmp_path)
    with pytest.raises(InputError, match=r"the image encoder .* can't be loaded"):
        features(f"transformers:{tmp_path / 'away'}", tmp_path)


def test_a_flow_asks_for_weights_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match="no Inception weights there"):
        check(configure(["evaluation.extractors=['inception:away.pth']"]), tmp_path)


def test_an_unknown_extractor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.extractors"):
        configure(["evaluation.extractors=[vgg]"])


@torch.inference_mode()
def test_textures_need_no_weights(tmp_path: Path) -> None:
    assert features("texture", tmp_path).shape == (3, 96)


@torch.inference_mode()
def test_the_classifiers_last_stage_is_pooled(tmp_path: Path) -> None:
    net = FindingClassifier(ClassifierConfig(channels=(8, 16)), [("nodule", "left")]).eval()
    net.save(tmp_path / "models" / "classifier")
    Judge(net, 2.0).save(tmp_path / "models" / "filters" / "judge")
    expected = net.features(IMAGES[:, None] / 127.5 - 1)[-1].mean((2, 3))
    for own in ("judge", "classifier"):
        torch.testing.assert_close(features(own, tmp_path), expected)


@torch.inference_mode()
def test_encoders_see_what_their_processor_makes(tmp_path: Path) -> None:
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3)
    net = ViTModel(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=16,
            patch_size=8,
        ),
        add_pooling_layer=False,
    ).eval()
    for part in (net, processor):
        part.save_pretrained(tmp_path / "vit")
    colour = [np.repeat(image.numpy()[..., None], 3, -1) for image in IMAGES]
    pixels = processor(images=colour, return_tensors="pt")["pixel_values"]
    found = [features(f"transformers:{tmp_path / 'vit'}", tmp_path) for _ in range(2)]
    torch.testing.assert_close(found[0], net(pixels).last_hidden_state[:, 0])
    assert torch.equal(*found), "a pooler that the checkpoint lacks has other random weights every time"


@torch.inference_mode()
def test_an_encoder_without_class_token_is_averaged(tmp_path: Path) -> None:
    net = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")).eval()
    net.save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    found = features(f"transformers:{tmp_path / 'resnet'}", tmp_path)
    torch.testing.assert_close(found, net(IMAGES[:, None].expand(-1, 3, -1, -1) / 127.5 - 1).pooler_output[..., 0, 0])


@torch.inference_mode()
def test_rad_dinos_features_are_its_pooled_output(tmp_path: Path) -> None:
    """What CheXGenBench takes of it; of DINOv2 the class token behind the last norm."""
    few = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    net = Dinov2Model(Dinov2Config(**few)).eval()
    size = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28}}
    processor = BitImageProcessor(**size, image_mean=[0.5] * 3, image_std=[0.3] * 3)
    for part in (net, processor):
        part.save_pretrained(tmp_path / "dino")
    colour = [np.repeat(image.numpy()[..., None], 3, -1) for image in IMAGES]
    pixels = processor(images=colour, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(features(f"transformers:{tmp_path / 'dino'}", tmp_path), net(pixels).pooler_output)
