from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)

from medsynth_core.config import Config, Paths
from medsynth_core.config.tree import LLMConfig, LoRAConfig, SynthesisConfig
from medsynth_core.corpus.images import to_u8
from medsynth_core.models.codebook import Keypatch
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.text import load_tokenizer
from medsynth_core.models.vqgan import VQGAN
from medsynth_core.quality.duplicate import TrainingCopyFilter, load_reference
from medsynth_core.synthesis.engine import decode_image_tokens, sample
from medsynth_core.synthesis.identity import ShardPlan, image_id, spec_hash, uniforms
from medsynth_core.synthesis.stage import bounds
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.training.llm import add_adapters
from medsynth_core.training.pairs import read_pairs

SHAPE = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "gpt-neox": GPTNeoXConfig(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "qwen": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
}


def language_model(name: str, trained: tuple[Config, Paths], folder: Path) -> ImageLanguageModel:
    """Returns an extended model of a family, loaded from a folder as a pretrained one is."""
    torch.manual_seed(0)
    base: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[name])
    base.save_pretrained(folder)
    tokenizer = load_tokenizer(trained[1].alignment / "tokenizer")
    tokenizer.save_pretrained(folder)
    model = ImageLanguageModel.fresh(LLMConfig(base=str(folder), keypatches=4), 16, 32, tokenizer)
    for weights in model.lm.get_output_embeddings().parameters():
        weights.data.normal_()
    return model.eval()


def plain_inputs(model: ImageLanguageModel, prefix: Prefix, codes: list[int]) -> torch.Tensor:
    """Returns the embeddings [S + len(codes), C] of a prefix and the codes after it, added up one by one."""
    at, table = model.layout, model.lm.get_input_embeddings().weight
    rows = [(i, cell) for i, cell in zip(prefix.ids, prefix.cells, strict=True)]
    rows += [(at.first_code + code, cell + 1) for cell, code in enumerate(codes)]
    vectors = []
    for place, (i, cell) in enumerate(rows):
        vector = table[i]
        if cell >= 0:
            vector = vector + table[at.first_cell + cell]
        if place >= len(prefix.ids) - 1 and cell in prefix.keys:
            vector = vector + table[at.first_key + prefix.keys[cell]]
        vectors.append(vector)
    return torch.stack(vectors)


def two_prefixes(model: ImageLanguageModel) -> list[Prefix]:
    patches = [Keypatch(0, 3, 5, 0.5, "effusion"), Keypatch(1, 0, 7, 0.4, "left")]
    text = "Small left pleural effusion."
    return [model.prefix(text, "frontal", patches), model.prefix("Clear.", "frontal", [])]


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_equals_the_plain_forward_pass(name: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model(name, trained, tmp_path)
    prefixes = two_prefixes(model)
    greedy = SynthesisConfig(top_k=1, top_p=1.0, guidance=1.0)
    codes = decode_image_tokens(model, prefixes, [], torch.full((2, 16), 0.5), greedy)
    first = model.layout.first_code
    for prefix, row in zip(prefixes, codes.tolist(), strict=True):
        for place, code in enumerate(row):
            logits = model.lm(inputs_embeds=plain_inputs(model, prefix, row[:place])[None]).logits[0, -1]
            assert int(logits[first : first + 32].argmax()) == code


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_equal_those_of_the_plain_forward_pass(name: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model(name, trained, tmp_path)
    at = model.layout
    prefixes, codes = two_prefixes(model), torch.arange(32).view(2, 16)
    reports = ["Small left pleural effusion.", "Clear."]
    reverse = [model.reverse_prefix(row, "frontal") for row in codes.tolist()]
    with torch.inference_mode():
        losses = model(prefixes, codes, reverse, reports)
        image, report = [], []
        for prefix, row in zip(prefixes, codes.tolist(), strict=True):
            logits = model.lm(inputs_embeds=plain_inputs(model, prefix, row[:-1])[None]).logits[0, -16:]
            image.append(cross_entropy(logits[:, at.first_code : at.first_code + 32], torch.tensor(row)))
        for prefix, text in zip(reverse, reports, strict=True):
            answer = [*model._text(text), at.marker("end")]
            whole = Prefix([*prefix.ids, *answer], [*prefix.cells, *[-1] * len(answer)])
            logits = model.lm(inputs_embeds=plain_inputs(model, whole, [])[None]).logits[0, -len(answer) - 1 : -1]
            allowed = [*range(at.text_tokens), at.marker("end")]
            targets = torch.tensor([min(i, at.text_tokens) for i in answer])
            report.append(cross_entropy(logits[:, allowed], targets, reduction="none"))
    assert float(losses["image"]) == pytest.approx(float(torch.stack(image).mean()), abs=1e-5)
    assert float(losses["report"]) == pytest.approx(float(torch.cat(report).mean()), abs=1e-5)


def test_the_reference_block_is_the_keypatches_in_their_order(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    """No code comes in by itself, and none changes its rank."""
    model = language_model("llama", trained, tmp_path)
    at = model.layout
    patches = [Keypatch(0, 9, 5, 0.9, "a"), Keypatch(1, 2, 30, 0.8, "b"), Keypatch(2, 4, 0, 0.7, "c")]
    prefix = model.prefix("Clear.", "frontal", patches)
    start = prefix.ids.index(at.marker("reference")) + 1
    assert prefix.ids[start:] == [at.first_key + 5, at.first_key + 30, at.first_key, at.marker("response")]
    assert prefix.cells[start:] == [9, 2, 4, 0]
    bare = model.prefix("Clear.", "frontal", [])
    assert bare.ids[-2:] == [at.marker("reference"), at.marker("response")]
    assert not bare.keys


def test_adapters_are_merged_into_the_weights(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model("llama", trained, tmp_path)
    names = set(model.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge = add_adapters(model, LLMConfig(lora=LoRAConfig(rank=2, dropout=0.0)))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora" in name for name in trainable)
    assert not any("mlp" in name and "lora" not in name for name in trainable)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimiser.zero_grad()
        model.image_loss(two_prefixes(model), torch.arange(32).view(2, 16)).backward()
        optimiser.step()
    adapted = float(model.image_loss(two_prefixes(model), torch.arange(32).view(2, 16)).detach())
    merge()
    assert set(model.state_dict()) == names
    assert float(model.image_loss(two_prefixes(model), torch.arange(32).view(2, 16)).detach()) == pytest.approx(
        adapted, abs=1e-4
    )
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("mlp" in name for name in changed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_language_model_loads_with_the_same_weights(
    name: str, trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    model = language_model(name, trained, tmp_path / "base")
    model.save(tmp_path / "saved")
    again = ImageLanguageModel.load(tmp_path / "saved")
    for (key, left), (_, right) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(left, right), key


def test_the_sampled_distribution_is_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = torch.linspace(0, 1, 20_001)[:-1]
    picked = sample(logits.expand(len(draws), 4).contiguous(), draws, SynthesisConfig(top_p=1.0))
    shares = torch.bincount(picked, minlength=4) / len(draws)
    assert torch.allclose(shares, torch.softmax(logits[0], 0), atol=2e-4)
    kept = sample(logits.expand(len(draws), 4).contiguous(), draws, SynthesisConfig(top_p=0.7))
    assert set(kept.tolist()) == {0, 1}, "the smallest set whose mass reaches 0.7"
    assert set(sample(logits.expand(9, 4).contiguous(), draws[:9], SynthesisConfig(top_k=1)).tolist()) == {0}


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 50))
def test_a_plan_is_a_partition_and_ids_ignore_it(n_prompts: int, samples: int, shard_images: int) -> None:
    prompts = tuple(f"p{i}" for i in range(n_prompts))
    plan = ShardPlan("spec", "run", prompts, samples, shard_images)
    ids = [request.image_id for shard in range(plan.n_shards) for request in plan.requests(shard)]
    assert ids == [image_id("spec", prompt, sample) for prompt in prompts for sample in range(samples)]
    assert len(set(ids)) == len(ids)


def test_streams_belong_to_images() -> None:
    together, alone = uniforms(["ab" * 12, "cd" * 12], 8), uniforms(["cd" * 12], 8)
    assert np.array_equal(together[1:], alone)
    assert together.min() >= 0.0
    assert together.max() < 1.0


def test_the_spec_ignores_what_it_must_and_changes_with_the_rest() -> None:
    prompts, models = [{"id": "p0", "text": "Clear."}], {"llm": "a"}
    base = spec_hash(prompts, models, SynthesisConfig())
    assert base == spec_hash(prompts, models, SynthesisConfig(shard_images=7, batch_size=3, samples_per_prompt=9))
    assert base != spec_hash(prompts, models, SynthesisConfig(temperature=0.9))
    assert base != spec_hash(prompts, {"llm": "b"}, SynthesisConfig())
    assert base != spec_hash([{"id": "p0", "text": "Effusion."}], models, SynthesisConfig())


def test_an_image_does_not_depend_on_its_batch(trained: tuple[Config, Paths]) -> None:
    """In float32 on a CPU; the docs state how far a batch shape may move a pixel."""
    from medsynth_core.synthesis.inputs import read_prompts

    synthesiser = Synthesiser.load(*trained)
    prompts = read_prompts(trained[1].prompts)[:4]
    ids = [image_id("s", prompt.prompt_id, 0) for prompt in prompts]
    keypatches = synthesiser.keypatches(prompts)
    together = synthesiser.images(ids, prompts, keypatches)
    alone = synthesiser.images(ids[2:3], prompts[2:3], keypatches[2:3])
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1


def test_a_memorised_training_image_is_rejected(trained: tuple[Config, Paths]) -> None:
    """A generator that has memorised an image emits its codes: what comes back is their rendering, not the original."""
    config, paths = trained
    vqgan = VQGAN.load(paths.vqgan)
    pixels = torch.from_numpy(read_pairs(paths, "train").flat_pixels(0, 4))
    copied = to_u8(vqgan.decode_codes(vqgan.encode_to_codes(pixels))[:, 0].numpy())
    judge = TrainingCopyFilter(load_reference(paths.llm), bounds(config, paths)["copy"])
    assert [j.reason for j in judge.judge(copied, ["x"] * 4)] == ["duplicate:training"] * 4
