from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.evaluation.extractors.transformers import EncoderFeatures
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.llm import ImageLanguageModel
from medsynth_core.models.settings import AlignmentConfig, LLMConfig
from medsynth_core.models.text import load_tokenizer
from medsynth_core.prompts.providers.transformers import LocalLLMConfig, LocalProvider
from medsynth_core.training.features import ImageEncoder
from medsynth_core.vocabulary.vocabulary import Vocabulary

SHAPE = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
Load = Callable[[str, Any, Vocabulary], object]


def _text() -> PreTrainedModel:
    return BertModel(BertConfig(**SHAPE))


def _image() -> PreTrainedModel:
    return ViTModel(ViTConfig(**SHAPE, image_size=16, patch_size=8))


def _language() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


LOADERS: dict[str, tuple[Callable[[], PreTrainedModel], Load]] = {
    "models.alignment.text_model": (
        _text,
        lambda name, tokenizer, _: AlignmentModel.fresh(AlignmentConfig(text_model=name), 8, tokenizer),
    ),
    "models.llm.base": (
        _language,
        lambda name, tokenizer, _: ImageLanguageModel.fresh(LLMConfig(base=name), 16, 32, tokenizer),
    ),
    "prompts.transformers.model": (
        _language,
        lambda name, _, vocabulary: LocalProvider(LocalLLMConfig(model=name), vocabulary, 0, "cpu"),
    ),
    "the image encoder": (_image, lambda name, *_: ImageEncoder(name)),
    "the image encoder ": (_image, lambda name, *_: EncoderFeatures(name)),
}


@pytest.mark.parametrize("where", LOADERS)
def test_pickled_weights_are_refused_and_the_same_as_safetensors_load(
    where: str, trained: tuple[Any, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, load = LOADERS[where]
    paths = trained[1]
    tokenizer, vocabulary = (
        load_tokenizer(paths["alignment"] / "tokenizer"),
        Vocabulary.load(paths["vocabulary"] / "vocabulary.json"),
    )
    made, folder = network(), tmp_path / "pickled"
    made.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    torch.save(made.state_dict(), folder / "pytorch_model.bin")
    opened: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *args, **_: opened.append(args))
    with pytest.raises(InputError, match="convert them to safetensors") as caught:
        load(str(folder), tokenizer, vocabulary)
    assert str(caught.value).startswith(f"{where.strip()} {str(folder)!r} can't be loaded (")
    assert "\n" not in str(caught.value)
    made.save_pretrained(folder)
    load(str(folder), tokenizer, vocabulary)
    assert not opened
