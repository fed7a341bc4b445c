"""Pairs of image and text encoders on small or random weights, against what they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torchvision.models import resnet50
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.chexgenbench.networks import BIOVIL_T, cast
from medsynth_core.evaluation.image_text import load_pair
from medsynth_core.evaluation.image_text.biovil_t import IMAGE_WEIGHTS
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "large", "left", "pleural", "effusion", "no", "."]
TEXT = "Large left pleural effusion."


def film(seed: int = 0, size: tuple[int, int] = (60, 80)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(30, 200, size, dtype=np.uint8))


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )


@pytest.fixture(scope="module")
def biovil_t(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as microsoft/BiomedVLP-BioViL-T is, with random weights and a small BERT."""
    folder = tmp_path_factory.mktemp("biovil-t")
    torch.manual_seed(0)
    state = {f"encoder.encoder.{name}": value for name, value in resnet50(weights=None).state_dict().items()}
    state |= {
        "encoder.backbone_to_vit.weight": torch.randn(256, 2048, 1, 1) / 50,
        "encoder.missing_previous_emb": torch.randn(1, 256, 1, 1),
        "encoder.vit_pooler.type_embed": torch.zeros(2, 1, 256),
        "projector.model.0.weight": torch.randn(128, 512, 1, 1) / 20,
        "projector.model.1.weight": torch.rand(128) + 0.5,
        "projector.model.1.bias": torch.randn(128),
        "projector.model.1.running_mean": torch.randn(128),
        "projector.model.1.running_var": torch.rand(128) + 0.5,
        "projector.model.1.num_batches_tracked": torch.tensor(1),
        "projector.model.3.weight": torch.randn(128, 128, 1, 1),
        "projector.model.3.bias": torch.randn(128),
    }
    torch.save(state, folder / IMAGE_WEIGHTS)
    text = {
        f"bert.{name}": value for name, value in BertModel(bert_config(), add_pooling_layer=False).state_dict().items()
    }
    text |= {"cls.predictions.bias": torch.zeros(len(WORDS))}
    for name, shape in (("dense_to_hidden", (128, 16)), ("dense_to_output", (128, 128))):
        text[f"cls_projection_head.{name}.weight"] = torch.randn(shape)
        text[f"cls_projection_head.{name}.bias"] = torch.randn(128)
    text |= {
        "cls_projection_head.LayerNorm.weight": torch.rand(128),
        "cls_projection_head.LayerNorm.bias": torch.rand(128),
    }
    torch.save(text, folder / "pytorch_model.bin")
    about = bert_config().to_diff_dict() | {
        "architectures": ["CXRBertModel"],
        "auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"},
        "projection_size": 128,
    }
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    named = {"do_lower_case": True, "tokenizer_class": "CXRBertTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def loaded(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / IMAGE_WEIGHTS, weights_only=True)


@torch.inference_mode()
def test_biovil_t_computes_what_hi_ml_does(biovil_t: Path) -> None:
    """Step by step from the published layout; hi-ml-multimodal 0.2.2 itself gave the same on random weights."""
    pair = load_pair(f"biovil-t:{biovil_t}", workspace_paths(biovil_t))
    image = film(size=(560, 700))
    values = np.asarray(image).astype(float)
    stretched = ((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8)
    resized = np.asarray(Image.fromarray(stretched).resize((640, 512), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized[32:480, 96:544].copy()).float()[None, None].expand(1, 3, -1, -1) / 255
    state = loaded(biovil_t)
    trunk = resnet50(weights=None).eval()
    trunk.load_state_dict(
        {k.removeprefix("encoder.encoder."): v for k, v in state.items() if k.startswith("encoder.encoder.")}
    )
    hidden = trunk.layer4(
        trunk.layer3(trunk.layer2(trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(pixels)))))))
    )
    cells = F.conv2d(hidden, state["encoder.backbone_to_vit.weight"])
    assert cells.shape == (1, 256, 14, 14)
    both = torch.cat([cells, state["encoder.missing_previous_emb"].expand(1, -1, 14, 14)], 1)
    inner = F.conv2d(both, state["projector.model.0.weight"])
    norm = [state[f"projector.model.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    inner = F.relu(F.batch_norm(inner, *norm))
    projected = F.conv2d(inner, state["projector.model.3.weight"], state["projector.model.3.bias"]).mean((2, 3))
    torch.testing.assert_close(pair.encode_images([image]), F.normalize(projected, dim=1), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_biovil_ts_text_is_the_class_tokens_projection(biovil_t: Path) -> None:
    pair = load_pair(f"biovil-t:{biovil_t}", workspace_paths(biovil_t))
    text = torch.load(biovil_t / "pytorch_model.bin", weights_only=True)
    bert = BertModel(bert_config(), add_pooling_layer=False).eval()
    bert.load_state_dict({k.removeprefix("bert."): v for k, v in text.items() if k.startswith("bert.")})
    ids = torch.tensor([[2, 5, 6, 7, 8, 3]])  # lower case, without the full stop
    head = {k.removeprefix("cls_projection_head."): v for k, v in text.items()}
    hidden = F.gelu(
        F.linear(bert(ids).last_hidden_state[:, 0], head["dense_to_hidden.weight"], head["dense_to_hidden.bias"])
    )
    hidden = F.layer_norm(hidden, (128,), head["LayerNorm.weight"], head["LayerNorm.bias"], 1e-12)
    expected = F.normalize(F.linear(hidden, head["dense_to_output.weight"], head["dense_to_output.bias"]), dim=1)
    found = pair.encode_texts([TEXT, "no " * 40])
    torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 128), "a text of more tokens than there are places for is cut"
    assert torch.isfinite(pair.encode_images([Image.new("L", (50, 50), 7)])).all(), "a film of one grey"


def test_other_weights_arent_the_boards(biovil_t: Path) -> None:
    """Random weights have the shapes, but not the published MD5."""
    given = {"rad-dino": "none", "inception": "none", "reid": "none", BIOVIL_T: f"biovil-t:{biovil_t}"}
    playing = cast(given, False, workspace_paths(biovil_t))
    assert playing.own == frozenset()
    assert playing.heading("Alignment_score", BIOVIL_T) == f"Alignment_score (biovil-t:{biovil_t.name} for BioViL-T)"


def test_what_isnt_biovil_t_is_one_clear_error(biovil_t: Path, tmp_path: Path) -> None:
    paths = workspace_paths(tmp_path)
    with pytest.raises(InputError, match=f"no {IMAGE_WEIGHTS} there; BioViL-T is a folder"):
        load_pair("biovil-t:away", paths)
    with pytest.raises(ConfigError, match="biovil-t needs a place"):
        load_pair("biovil-t", paths)
    for name in ("config.json", "vocab.txt", "tokenizer_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_bytes((biovil_t / name).read_bytes())
    state = loaded(biovil_t)
    del state["projector.model.3.bias"]
    torch.save(state, tmp_path / IMAGE_WEIGHTS)
    with pytest.raises(InputError, match=r"not BioViL-T's image model .*projector\.model\.3\.bias"):
        load_pair(f"biovil-t:{tmp_path}", paths)
    (tmp_path / IMAGE_WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(InputError, match="not readable as BioViL-T weights"):
        load_pair(f"biovil-t:{tmp_path}", paths)


def clip_parts() -> tuple[CLIPTextConfig, CLIPVisionConfig]:
    few = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = CLIPTextConfig(**few, vocab_size=len(WORDS), max_position_embeddings=12, projection_dim=8, eos_token_id=3)
    return text, CLIPVisionConfig(**few, image_size=16, patch_size=8, projection_dim=8)


def leave_preparation(folder: Path) -> None:
    size = {"shortest_edge": 16}
    CLIPImageProcessor(size=size, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


@torch.inference_mode()
def test_a_dual_encoder_by_its_folder(tmp_path: Path) -> None:
    text, vision = clip_parts()
    torch.manual_seed(0)
    net = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).eval()
    net.save_pretrained(tmp_path / "clip")
    leave_preparation(tmp_path / "clip")
    pair = load_pair(f"transformers:{tmp_path / 'clip'}", workspace_paths(tmp_path))
    pixels = CLIPImageProcessor.from_pretrained(tmp_path / "clip")(film().convert("RGB"), return_tensors="pt")
    embedded = net(input_ids=torch.tensor([[1, 6, 7, 8, 10]]), pixel_values=pixels["pixel_values"])
    torch.testing.assert_close(pair.encode_images([film()]), embedded.image_embeds)
    torch.testing.assert_close(pair.encode_texts([TEXT]), embedded.text_embeds)
    assert pair.encode_texts(["left " * 50, "no"]).shape == (2, 8)


@torch.inference_mode()
def test_two_encoders_by_their_folders(tmp_path: Path) -> None:
    text, vision = clip_parts()
    seen, read = CLIPVisionModelWithProjection(vision).eval(), CLIPTextModelWithProjection(text).eval()
    seen.save_pretrained(tmp_path / "image")
    read.save_pretrained(tmp_path / "text")
    for name in ("image", "text"):
        leave_preparation(tmp_path / name)
    paths = workspace_paths(tmp_path)
    pair = load_pair(f"transformers:{tmp_path / 'image'}+{tmp_path / 'text'}", paths)
    pixels = CLIPImageProcessor.from_pretrained(tmp_path / "image")(film().convert("RGB"), return_tensors="pt")
    expected = F.normalize(seen(pixels["pixel_values"]).image_embeds, dim=1)
    torch.testing.assert_close(pair.encode_images([film()]), expected)
    wider = CLIPVisionModelWithProjection(CLIPVisionConfig(**{**vision.to_dict(), "projection_dim": 12}))
    wider.save_pretrained(tmp_path / "image")
    with pytest.raises(InputError, match="images have 12 features and texts 8"):
        load_pair(f"transformers:{tmp_path / 'image'}+{tmp_path / 'text'}", paths).encode_images([film()])
    with pytest.raises(InputError, match="has no get_image_features and get_text_features"):
        load_pair(f"transformers:{tmp_path / 'image'}", paths)


@torch.inference_mode()
def test_the_workspaces_own_pair(trained: tuple[Config, Paths]) -> None:
    paths = trained[1]
    pair, model = load_pair("alignment", paths), AlignmentModel.load(paths["alignment"])
    image = film(size=(32, 32))
    expected = model.encode_patches(torch.from_numpy(np.array(image))[None, None].float() / 127.5 - 1).global_BD
    torch.testing.assert_close(pair.encode_images([image]), expected)
    torch.testing.assert_close(pair.encode_texts([f"___ {TEXT}"]), model.encode_words([TEXT]).global_TD)
    with pytest.raises(InputError, match="no alignment model there"):
        load_pair("alignment", workspace_paths(paths.root / "away"))
