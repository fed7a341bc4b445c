"""Image tokenizers behind their protocol: another kind is one module, and nothing else knows of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.models import tokenizers
from medsynth_core.models.pixels import to_inputs
from medsynth_core.models.rendering import as_rendered, rendered
from medsynth_core.models.settings import VQGANConfig
from medsynth_core.models.tokenizers import ImageTokenizer, load_image_tokenizer
from medsynth_core.models.tokenizers.vqgan import VQGAN
from medsynth_core.synthesis.identity import image_id
from medsynth_core.synthesis.inputs import read_prompts
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.training.examples import image_codes
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

ELSEWHERE = Path(__file__).parents[1] / "data" / "tokenizers"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``tests/data/tokenizers/toy.py`` as if it lay beside the others."""
    monkeypatch.setattr(tokenizers, "__path__", [*tokenizers.__path__, str(ELSEWHERE)])
    yield
    sys.modules.pop(f"{tokenizers.__name__}.toy", None)


def saved_toy(folder: Path, codes: int, downsampling: int = 4) -> ImageTokenizer:
    module = import_module(f"{tokenizers.__name__}.toy")
    module.BlockMeans(torch.linspace(-1, 1, codes), downsampling).save(folder)
    return load_image_tokenizer(folder)


@pytest.mark.usefixtures("toy")
def test_images_are_rendered_from_their_codes(tmp_path: Path) -> None:
    tokenizer = saved_toy(tmp_path, 16)
    greys = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    images = np.stack([np.kron(each, np.ones((4, 4), dtype=np.uint8)) for each in (greys, 255 - greys)])
    codes = tokenizer.encode(to_inputs(images, tokenizer.device))
    assert codes.tolist() == [(greys // 17).ravel().tolist(), (15 - greys // 17).ravel().tolist()]
    np.testing.assert_array_equal(as_rendered(tokenizer, images), images)
    np.testing.assert_array_equal(np.concatenate(list(rendered(tokenizer, codes))), images)
    checked = images // 2 + np.indices((16, 16)).sum(0).astype(np.uint8) % 2
    assert as_rendered(tokenizer, checked).reshape(2, 4, 4, 4, 4).std((2, 4)).max() == 0, "a block has one grey"


@pytest.mark.usefixtures("toy")
def test_training_reads_the_codes_of_any_tokenizer(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    pairs = read_pairs(trained[1], "val")
    codes = image_codes(pairs, saved_toy(tmp_path, 16, 8), batch_size=7)
    assert (tuple(codes.shape), codes.dtype) == ((len(pairs), 16), torch.int64)
    blocks = pairs.flat_pixels(0, len(pairs)).reshape(-1, 4, 8, 4, 8).mean((2, 4)).reshape(-1, 16)
    assert np.abs(np.linspace(-1, 1, 16)[codes.numpy()] - blocks).max() <= 1 / 15 + 1e-6


@pytest.mark.usefixtures("toy")
def test_images_are_drawn_through_any_tokenizer_that_the_llm_was_trained_for(
    trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    config, paths = trained[0], workspace_paths(tmp_path)
    shutil.copytree(trained[1].root / "models", tmp_path / "models")
    shutil.rmtree(paths["vqgan"])
    tokenizer = saved_toy(paths["vqgan"], 32)
    synthesiser = Synthesiser.load(SynthesisParams.of(config), paths)
    prompts = read_prompts(trained[1]["prompts"])[:3]
    ids = [image_id("s", prompt.prompt_id, 0) for prompt in prompts]
    images = synthesiser.images(ids, prompts, synthesiser.keypatches(prompts))
    assert images.shape == (3, 32, 32)
    np.testing.assert_array_equal(as_rendered(tokenizer, images), images)
    saved_toy(paths["vqgan"], 16)
    with pytest.raises(
        InputError, match=r"trained for 32 codes in 1 levels and 64 cells, but the image tokenizer has 16 codes"
    ):
        Synthesiser.load(SynthesisParams.of(config), paths)


def test_a_saved_vqgan_is_loaded_by_its_kind(trained: tuple[Config, Paths]) -> None:
    tokenizer = load_image_tokenizer(trained[1]["vqgan"])
    assert isinstance(tokenizer, VQGAN)
    assert (tokenizer.codes, tokenizer.downsampling, tokenizer.training) == (32, 4, False)


@pytest.mark.parametrize("kind", ["llm", "os", "../vqgan", None, 3])
def test_an_unknown_kind_is_an_error_that_names_the_known_ones(kind: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": kind}))
    with pytest.raises(InputError) as error:
        load_image_tokenizer(tmp_path)
    assert (
        str(error.value) == f"{tmp_path}: expected an image tokenizer, found kind {kind!r}; there are pretrained, vqgan"
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no image tokenizer there \(config.json is missing\); train it"):
        load_image_tokenizer(tmp_path / "nowhere")


def test_a_vqgan_that_was_saved_before_grain_is_read_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VQGAN(VQGANConfig(channels=(8, 8), codes=16, code_dim=4, patch=1, linear=False, grain_channels=0)).eval()
    model.save(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    for name in ("patch", "levels", "linear", "grain_channels", "spectral_weight", "jitter"):
        del about["vqgan"][name]
    (tmp_path / "config.json").write_text(json.dumps(about))
    codes = torch.randint(0, 16, (2, 16))
    assert torch.equal(VQGAN.load(tmp_path).decode(codes), model.decode(codes))
