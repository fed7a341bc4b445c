"""Image tokenizers of others: what they say of an image is what their own libraries say, before and after training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)

from medsynth_core.config import Paths
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.models.artifact import load_config
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.tokenizers import load_image_tokenizer
from medsynth_core.models.tokenizers.pretrained import PretrainedTokenizer, find_base
from medsynth_core.progress import silent
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.workspace.check import check
from medsynth_core.workspace.stages import perform, workspace_paths
from medsynth_core.workspace.tree import Config

SHAPE = {"base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1}
"""Downsamples by 4."""
SIDE, CELLS, CODES = 32, 64, 48
Own = Callable[[Any, Tensor], Tensor]


def vq_model(**others: Any) -> VQModel:
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        latent_channels=4,
        num_vq_embeddings=CODES,
        **others,
    )


def janus() -> JanusVQVAE:
    net = JanusVQVAE(
        JanusVQVAEConfig(**SHAPE, latent_channels=16, embed_dim=4, num_embeddings=CODES, num_patches=SIDE // 4)
    )
    return net.eval()


def emu3() -> Emu3VQVAE:
    settings = Emu3VQVAEConfig(**SHAPE, codebook_size=CODES, hidden_size=64, attn_resolutions=[2])
    return Emu3VQVAE(settings)


def chameleon() -> ChameleonVQVAE:
    return ChameleonVQVAE(
        ChameleonVQVAEConfig(**SHAPE, latent_channels=16, embed_dim=4, num_embeddings=CODES, resolution=SIDE)
    )


def of_vq_model(net: VQModel, pixels: Tensor) -> Tensor:
    return net(pixels).sample


def of_amused(net: VQModel, pixels: Tensor) -> Tensor:
    """As aMUSEd's pipelines do: pixels in [0, 1], and codes that are looked up."""
    codes = net.quantize(net.encode((pixels + 1) / 2).latents)[2][2].view(len(pixels), -1)
    shape = (len(pixels), SIDE // 4, SIDE // 4, 4)
    return net.decode(codes, force_not_quantize=True, shape=shape).sample * 2 - 1


def of_janus(net: JanusVQVAE, pixels: Tensor) -> Tensor:
    return net(pixels).decoded_pixel_values


def of_emu3(net: Emu3VQVAE, pixels: Tensor) -> Tensor:
    sizes = torch.tensor([pixels.shape[-2:]] * len(pixels))
    return net.decode(torch.stack(net.encode(pixels, sizes).image_tokens))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Own | None]] = {
    "VQModel": (vq_model, of_vq_model),
    "grey VQModel": (lambda: vq_model(in_channels=1, out_channels=1), of_vq_model),
    "MoVQ": (lambda: vq_model(norm_type="spatial"), of_vq_model),
    "aMUSEd": (lambda: vq_model(lookup_from_codebook=True, mid_block_add_attention=False), of_amused),
    "Janus": (janus, of_janus),
    "Emu3": (emu3, of_emu3),
    "Chameleon": (chameleon, None),
}
IMAGES = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def network(name: str) -> Any:
    """Returns a random network whose codes lie among its latents, so that an image has many."""
    torch.manual_seed(0)
    net: Any = NETWORKS[name][0]().eval()
    family = "VQModel" if isinstance(net, VQModel) else net.config.model_type
    alike = PretrainedTokenizer(family, dict(net.config) if family == "VQModel" else net.config.to_dict())
    alike.net.load_state_dict(alike.net.state_dict() | net.state_dict())
    with torch.no_grad():
        latents_ND = alike.encode_to_latents(torch.rand(8, 1, SIDE, SIDE) * 2 - 1).movedim(1, -1).flatten(0, 2)
        net.quantize.embedding.weight.copy_(latents_ND[torch.randperm(len(latents_ND))[:CODES]])
    return net


@pytest.fixture(params=NETWORKS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    """A family, a network of it, and the folder that its library saved it in."""
    net = network(request.param)
    net.save_pretrained(tmp_path / "base")
    return request.param, net, tmp_path / "base"


def test_it_says_what_its_own_library_says(saved: tuple[str, Any, Path], tmp_path: Path) -> None:
    name, net, folder = saved
    base = find_base(str(folder))
    model = base.load().eval()
    assert (base.downsampling, model.downsampling, model.levels, model.codes) == (4, 4, 1, CODES)
    codes = model.encode(IMAGES)
    assert (tuple(codes.shape), codes.dtype) == ((3, CELLS), torch.int64)
    assert len(codes.unique()) > CODES // 3
    pixels = model.decode(codes)
    assert (pixels.shape, pixels.dtype) == (IMAGES.shape, torch.float32)
    assert float(pixels.abs().max()) <= 1
    own = NETWORKS[name][1]
    with torch.no_grad():
        seen = IMAGES.expand(-1, 1 if name == "grey VQModel" else 3, -1, -1)
        if own is None:
            assert torch.equal(codes, net.encode(seen).image_tokens.view(3, -1))
        else:
            torch.testing.assert_close(pixels, own(net, seen).mean(1, keepdim=True).clamp(-1, 1), atol=1e-5, rtol=0)

    model.save(tmp_path / "saved")
    again = load_image_tokenizer(tmp_path / "saved")
    assert isinstance(again, PretrainedTokenizer)
    assert not again.training
    assert torch.equal(again.encode(IMAGES), codes)
    assert torch.equal(again.decode(codes), pixels)


def test_both_ways_learn_and_the_codebook_stays(saved: tuple[str, Any, Path]) -> None:
    model = find_base(str(saved[2])).load().train()
    with torch.autocast("cpu", torch.bfloat16):
        made = model(IMAGES)
    assert made.pixels_B1HW.dtype == made.commitment.dtype == torch.float32
    assert made.plain_B1HW is made.pixels_B1HW
    (made.pixels_B1HW.square().mean() + made.commitment).backward()
    for name, parameter in model.named_parameters():
        if name == "net.quantize.embedding.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    for weight in (model.last_layer, model.net.encoder.conv_in.weight):
        assert float(weight.grad.abs().max()) > 0


def test_codes_of_janus_are_directions(tmp_path: Path) -> None:
    """Published codebooks aren't of one length, which transformers' encoder, unlike its decoder, takes for a
    difference."""
    net = network("Janus")
    net.save_pretrained(tmp_path / "even")
    with torch.no_grad():
        net.quantize.embedding.weight *= torch.linspace(0.1, 3, CODES)[:, None]
    net.save_pretrained(tmp_path / "uneven")
    even, uneven = (find_base(str(tmp_path / name)).load().eval() for name in ("even", "uneven"))
    codes = even.encode(IMAGES)
    assert torch.equal(uneven.encode(IMAGES), codes)
    torch.testing.assert_close(uneven.decode(codes), net.decode(codes).mean(1, keepdim=True).clamp(-1, 1))
    with torch.no_grad():
        assert not torch.equal(net.encode(IMAGES.expand(-1, 3, -1, -1)).image_tokens.view(3, -1), codes)


@pytest.mark.parametrize(
    ("name", "prefix"), [("Janus", "model.vqmodel."), ("Chameleon", "model.vqmodel."), ("Emu3", "vqmodel.")]
)
def test_of_a_whole_model_the_tokenizer_alone_is_read(name: str, prefix: str, tmp_path: Path) -> None:
    net, whole = network(name), tmp_path / "whole"
    whole.mkdir()
    net.save_pretrained(tmp_path / "alone")
    kind = net.config.model_type.removesuffix("_vqgan")
    config = net.config.to_dict() | {"model_type": net.config.model_type}
    (whole / "config.json").write_text(json.dumps({"model_type": kind, "vq_config": config, "text_config": {}}))
    state = {f"{prefix}{key}": tensor.to(torch.float32) for key, tensor in net.state_dict().items()}
    keys = sorted(state)
    parts = {"model-00001-of-00003.safetensors": keys[::2], "model-00002-of-00003.safetensors": keys[1::2]}
    for file, part in parts.items():
        save_file({key: state[key].contiguous() for key in part} | {f"{file}.lm": torch.zeros(1)}, whole / file)
    places = {key: file for file, part in parts.items() for key in part} | {
        "lm_head.weight": "model-00003-of-00003.safetensors"  # isn't there: nothing asks for it
    }
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    alone, inside = (find_base(str(folder)).load().eval() for folder in (tmp_path / "alone", whole))
    codes = alone.encode(IMAGES)
    assert torch.equal(inside.encode(IMAGES), codes)
    if name != "Chameleon":
        assert torch.equal(inside.decode(codes), alone.decode(codes))


def test_a_folder_below_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("aMUSEd")
    kept = tmp_path / "models--team--amused" / "snapshots" / ("0" * 40)
    net.save_pretrained(kept / "vqvae")
    (tmp_path / "models--team--amused" / "refs").mkdir()
    (tmp_path / "models--team--amused" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = find_base("team/amused/vqvae").load()
    assert torch.equal(model.net.state_dict()["quantize.embedding.weight"], net.quantize.embedding.weight)
    with pytest.raises(InputError, match=r"^models.vqgan.base 'team/other' can't be loaded \(.*name a folder"):
        find_base("team/other")


LLAMAGEN = (
    ("encoder.down.", "encoder.conv_blocks."),
    ("decoder.up.", "decoder.conv_blocks."),
    (".block.", ".res."),
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
)
"""Names of its vq_model.py, by transformers' for the same parts of Janus'."""


def saved_llamagen(net: JanusVQVAE, path: Path) -> Path:
    state = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in LLAMAGEN:
            name = name.replace(ours, theirs)
        state[name] = tensor.contiguous()
    assert {
        "encoder.mid.1.q.weight",
        "decoder.conv_blocks.0.attn.1.v.bias",
        "encoder.conv_blocks.0.downsample.conv.weight",
    } <= set(state)
    save_file(state | {"quantize.codebook_used": torch.zeros(8)}, path)
    return path


def test_llamagens_network_is_that_of_janus(tmp_path: Path) -> None:
    net = network("Janus")
    base = find_base(str(saved_llamagen(net, tmp_path / "vq_ds16_c2i.safetensors")))
    model = base.load().eval()
    assert (base.downsampling, model.codes) == (4, CODES)
    codes = model.encode(IMAGES)
    with torch.no_grad():
        assert torch.equal(codes, net.encode(IMAGES.expand(-1, 3, -1, -1)).image_tokens.view(3, -1))
        torch.testing.assert_close(model.decode(codes), net.decode(codes).mean(1, keepdim=True).clamp(-1, 1))
    assert JanusVQVAEConfig.from_dict(base.config).to_dict() | {"num_patches": 0} == net.config.to_dict() | {
        "num_patches": 0
    }


def test_the_converter_of_the_docstring_makes_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medsynth_core.models.llamagen as module

    net = network("Janus")
    monkeypatch.chdir(tmp_path)
    state = load_file(saved_llamagen(net, tmp_path / "made.safetensors"))
    torch.save({"model": state}, "vq_ds16_c2i.pt")
    lines = str(module.__doc__).splitlines()
    exec("\n".join(line.removeprefix("    ") for line in lines if line.startswith("    ")))
    assert torch.equal(
        find_base("vq_ds16_c2i.safetensors").load().encode(IMAGES), find_base("made.safetensors").load().encode(IMAGES)
    )
    with pytest.raises(
        InputError, match=r"vq_ds16_c2i.pt': not a safetensors file \(.*help\(medsynth_core.models.llamagen\)"
    ):
        find_base("vq_ds16_c2i.pt")


def with_base(config: Config, base: str, image_channels: tuple[int, ...] = (8, 16)) -> Config:
    """Returns the tiny configuration with a base that is trained for three steps, the last two against a critic."""
    models = config.models
    vqgan = models.vqgan.model_copy(
        update={
            "base": base,
            "spectral_weight": 0.1,
            "adversarial_start": 1,
            "train": models.vqgan.train.model_copy(update={"steps": 3, "learning_rate": 1e-4}),
        }
    )
    alignment = models.alignment.model_copy(update={"image_channels": image_channels})
    return config.model_copy(update={"models": models.model_copy(update={"vqgan": vqgan, "alignment": alignment})})


def workspace(trained: tuple[Config, Paths], root: Path) -> Paths:
    """Returns a workspace with the tiny one's corpus, vocabulary, prompts and classifier, and no other models."""
    paths = workspace_paths(root)
    for name in ("corpus", "vocabulary", "prompts", "classifier"):
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].symlink_to(trained[1][name])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VQModel", "Emu3", "Chameleon", "LlamaGen"])
def test_it_is_fine_tuned_on_the_corpus(
    trained: tuple[Config, Paths], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = network("Janus" if name == "LlamaGen" else name)
    base = tmp_path / "base"
    if name == "LlamaGen":
        saved_llamagen(net, base)
    else:
        net.save_pretrained(base)
    config, paths = with_base(trained[0], str(base)), workspace(trained, tmp_path)
    report = perform("vqgan", config, paths.root, silent)
    assert (report.steps, {"psnr_db", "codes_used", "perplexity"} <= set(report.metrics)) == (3, True)
    assert ("has no decoder: one is trained from scratch" in caplog.text) == (name == "Chameleon")
    base.rename(tmp_path / "gone")
    model = load_image_tokenizer(paths["vqgan"])
    assert isinstance(model, PretrainedTokenizer)
    state, before = model.net.state_dict(), net.state_dict()
    assert load_config(paths["vqgan"], "")["kind"] == "pretrained"
    assert torch.equal(state["quantize.embedding.weight"], before["quantize.embedding.weight"])
    assert not torch.equal(state["encoder.conv_in.weight"], before.get("encoder.conv_in.weight"))
    films = to_inputs(Corpus.open(paths["corpus"]).images(np.arange(4)), model.device)
    assert model.decode(model.encode(films)).shape == films.shape


def test_a_whole_chain_learns_its_codes(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    network("Janus").save_pretrained(tmp_path / "base")
    config, paths = with_base(trained[0], str(tmp_path / "base")), workspace(trained, tmp_path)
    for stage in ("vqgan", "alignment", "llm"):
        perform(stage, config, paths.root, silent)
    synthesiser = Synthesiser.load(SynthesisParams.of(config), paths)
    prompts = read_prompts(paths["prompts"])[:2]
    ids = [image_id("s", prompt.prompt_id, 0) for prompt in prompts]
    images = synthesiser.images(ids, prompts, synthesiser.keypatches(prompts))
    assert (images.shape, images.dtype) == ((2, 32, 32), np.uint8)
    with pytest.raises(
        ConfigError, match=r"image_channels has 1 stages; its grid is the image tokenizer's when it has 2"
    ):
        perform("alignment", with_base(trained[0], "", (8,)), paths.root, silent)


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_in_the_same_weights(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network("VQModel").save_pretrained(tmp_path / "base")
    config = with_base(trained[0], str(tmp_path / "base"))
    first, second = workspace(trained, tmp_path / "first"), workspace(trained, tmp_path / "second")
    report = perform("vqgan", config, first.root, silent)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medsynth_core.training.vqgan.draw_renderings", killed)
    with pytest.raises(KeyboardInterrupt):
        perform("vqgan", config, second.root, silent)
    monkeypatch.undo()
    again = perform("vqgan", config, second.root, silent)
    assert (again.resumed_from, again.digest) == (2, report.digest)


def problem(root: Path, config: Config, stage: str = "vqgan") -> str:
    """Returns the line that a check ends with, or nothing."""
    found = ""
    try:
        check(config, root, [stage])
    except (ConfigError, InputError) as error:
        found = str(error)
    assert "\n" not in found
    return found


def test_what_cannot_be_a_base_is_said_before_any_work(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    net, folder = network("VQModel"), tmp_path / "base"
    net.save_pretrained(folder)
    assert problem(tmp_path, with_base(trained[0], str(folder))) == ""
    assert problem(tmp_path, with_base(trained[0], str(folder / "none"))) == (
        f"models.vqgan.base '{folder}/none': no such folder; correct it"
    )
    assert problem(tmp_path, with_base(trained[0], str(folder), (8,))) == (
        "models.alignment.image_channels has 1 stages; its grid is the image tokenizer's when it has 2 "
        f"(models.vqgan.base '{folder}')"
    )
    assert problem(tmp_path, with_base(trained[0], "/none"), "vocabulary") == "", "another stage doesn't need it"
    uneven = trained[0].model_copy(update={"corpus": trained[0].corpus.model_copy(update={"image_size": 34})})
    assert problem(tmp_path, with_base(uneven, str(folder))) == (
        f"corpus.image_size=34 can't be downsampled by 4 (models.vqgan.base '{folder}')"
    )
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{")
    assert problem(tmp_path, with_base(trained[0], str(folder))).startswith(
        f"models.vqgan.base '{folder}': its config.json can't be read (Expecting property name"
    )
    for changes, said in (
        (
            {"_class_name": "AutoencoderKL"},
            r"expected an image tokenizer of diffusers or transformers \(VQModel, .*found 'AutoencoderKL'",
        ),
        ({"norm_num_groups": 7}, r"no VQModel can be made of its config.json \("),
    ):
        (folder / "config.json").write_text(json.dumps(about | changes))
        assert re.match(rf"models.vqgan.base '{folder}': {said}", problem(tmp_path, with_base(trained[0], str(folder))))
    (folder / "config.json").write_text(json.dumps(about | {"num_vq_embeddings": 9}))
    with pytest.raises(InputError, match=r"weights don't fit its config.json \(.*save_pretrained of VQModel$"):
        find_base(str(folder)).load()
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    found = problem(tmp_path, with_base(trained[0], str(folder)))
    assert found == (
        f"models.vqgan.base '{folder}': the folder has no *.safetensors; name one that `save_pretrained` wrote as "
        f"safetensors"
    )
    network("Janus").save_pretrained(tmp_path / "janus")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for file, lacks in (
        ("x.safetensors", "encoder.conv_in"),
        ("janus/model.safetensors", "encoder.conv_blocks.0.res.0.conv1"),
    ):
        assert problem(tmp_path, with_base(trained[0], str(tmp_path / file))) == (
            f"models.vqgan.base '{tmp_path / file}': not LlamaGen's image tokenizer (it has no '{lacks}.weight'); "
            f"of another one name the folder"
        )


def test_a_saved_one_that_is_damaged_is_named(tmp_path: Path) -> None:
    network("VQModel").save_pretrained(tmp_path / "base")
    find_base(str(tmp_path / "base")).load().save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps(about | {"family": "VAE"}))
    with pytest.raises(InputError, match=r"saved: no network of family 'VAE'; there are VQModel, chameleon_vqgan"):
        load_image_tokenizer(tmp_path / "saved")
