import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.pytorch_utils import Conv1D

from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.filters.sharpness import FILTER as SHARPNESS
from medsynth_core.judging.calibrated import bounds_of, load_chain, load_judging
from medsynth_core.models.alignment import AlignmentModel
from medsynth_core.models.codebook import Keypatch
from medsynth_core.models.condition import Condition
from medsynth_core.models.llm import ImageLanguageModel, Prefix
from medsynth_core.models.pixels import to_images
from medsynth_core.models.settings import LLMConfig, LoRAConfig
from medsynth_core.models.text import load_tokenizer
from medsynth_core.models.tokenizers.vqgan import VQGAN
from medsynth_core.storage.stores.local import LocalStore
from medsynth_core.synthesis.engine import Engine
from medsynth_core.synthesis.identity import RunIdentity, ShardPlan, image_id, plan_shards, spec_hash, uniforms
from medsynth_core.synthesis.inputs import PromptRow, read_prompts
from medsynth_core.synthesis.packed import can_pack, pack_linears
from medsynth_core.synthesis.sampling import sample
from medsynth_core.synthesis.settings import SynthesisConfig, SynthesisParams
from medsynth_core.synthesis.stage import identify, open_worker, rounds
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.synthesis.writers import CopyingWriter, SharingWriter, Writer
from medsynth_core.training.llm import add_adapters
from medsynth_core.training.pairs import read_pairs
from medsynth_core.workspace.check import check
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

FRONTAL, LATERAL = (Condition((), view) for view in ("frontal", "lateral"))
SHAPE = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "gpt-neox": GPTNeoXConfig(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "qwen": Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
}
ELSEWHERE = {
    "falcon": FalconConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
    "gemma-2": Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8),
}
"""Families whose attention can't be replaced."""


def language_model(name: str, trained: tuple[Config, Paths], folder: Path) -> ImageLanguageModel:
    """Returns an extended model of a family, loaded from a folder as a pretrained one is."""
    torch.manual_seed(0)
    base: PreTrainedModel = AutoModelForCausalLM.from_config({**FAMILIES, **ELSEWHERE}[name])
    base.save_pretrained(folder)
    tokenizer = load_tokenizer(trained[1]["alignment"] / "tokenizer")
    tokenizer.save_pretrained(folder)
    model = ImageLanguageModel.fresh(LLMConfig(base=str(folder), keypatches=4), 16, 32, tokenizer)
    for weights in model.lm.get_output_embeddings().parameters():
        weights.data.normal_()
    return model.eval()


def plain_inputs(model: ImageLanguageModel, prefix: Prefix, codes: list[int]) -> torch.Tensor:
    """Returns the embeddings [S + len(codes), C] of a prefix and the codes after it, added up one by one."""
    at, embed = model.layout, model.lm.get_input_embeddings()
    table = embed(torch.arange(at.size))
    rows = [(i, cell) for i, cell in zip(prefix.ids, prefix.cells, strict=True)]
    rows += [(at.first_code + code, cell + 1) for cell, code in enumerate(codes)]
    vectors = []
    for place, (i, cell) in enumerate(rows):
        vector = table[i]
        if cell >= 0:
            vector = vector + table[at.first_cell + cell]
        if place >= len(prefix.ids) - 1:
            if cell % at.cells in prefix.keypatch_codes:
                vector = vector + table[at.first_keypatch + prefix.keypatch_codes[cell % at.cells]]
            for below in range(cell % at.cells, cell, at.cells):
                vector = vector + table[at.first_code + codes[below]]
        vectors.append(vector)
    return torch.stack(vectors)


def two_prefixes(model: ImageLanguageModel) -> list[Prefix]:
    patches = [Keypatch(0, 3, 5, 0.5, "effusion"), Keypatch(1, 0, 7, 0.4, "left")]
    text = "Small left pleural effusion."
    return [model.prefix(FRONTAL, text, patches), model.prefix(FRONTAL, "Clear.", [])]


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_equal_those_of_the_plain_forward_pass(name: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model(name, trained, tmp_path)
    at = model.layout
    prefixes, codes = two_prefixes(model), torch.arange(32).view(2, 16)
    reports = ["Small left pleural effusion.", "Clear."]
    reverse = [model.reverse_prefix(row, FRONTAL) for row in codes.tolist()]
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
    prefix = model.prefix(FRONTAL, "Clear.", patches)
    start = prefix.ids.index(at.marker("reference")) + 1
    assert prefix.ids[start:] == [
        at.first_keypatch + 5,
        at.first_keypatch + 30,
        at.first_keypatch,
        at.marker("response"),
    ]
    assert prefix.cells[start:] == [9, 2, 4, 0]
    bare = model.prefix(FRONTAL, "Clear.", [])
    assert bare.ids[-2:] == [at.marker("reference"), at.marker("response")]
    assert not bare.keypatch_codes


def with_levels(trained: tuple[Config, Paths]) -> ImageLanguageModel:
    """Returns a model that writes three codes in each of four cells."""
    tokenizer = load_tokenizer(trained[1]["alignment"] / "tokenizer")
    settings = LLMConfig(hidden=16, layers=1, heads=2, keypatches=4)
    return ImageLanguageModel.fresh(settings, 4, 32, tokenizer, levels=3).eval()


def test_what_is_known_of_a_cell_is_at_hand_at_each_level(trained: tuple[Config, Paths]) -> None:
    model = with_levels(trained)
    at = model.layout
    assert (at.tokens, at.first_code - at.first_cell, at.size - at.first_keypatch) == (12, 12, 32)
    prefix = model.prefix(FRONTAL, "Clear.", [Keypatch(0, 2, 5, 0.9, "a")])
    keypatch, below, two_below = model.known([prefix], torch.arange(20, 32).view(1, 12))[0].T.tolist()
    assert keypatch == [-1, -1, at.first_keypatch + 5, -1] * 3
    assert below == [-1] * 4 + [at.first_code + code for code in range(20, 28)]
    assert two_below == [-1] * 8 + [at.first_code + code for code in range(20, 24)]
    assert bool((model.known([prefix])[..., 1:] == -1).all())


@pytest.mark.parametrize("writer", ["shared", "copied", "static"])
def test_levels_are_written_as_they_are_learnt(writer: str, trained: tuple[Config, Paths]) -> None:
    model = with_levels(trained)
    prefixes = two_prefixes(model)
    codes = torch.tensor([[3, 1, 2, 0, 12, 14, 11, 13, 25, 30, 22, 21], [0, 1, 0, 7, 15, 10, 11, 16, 30, 22, 28, 21]])
    engine = Engine(model, capture=writer == "static")
    assert engine.shares_prefixes
    with torch.inference_mode():
        rows = [plain_inputs(model, prefix, row[:-1]) for prefix, row in zip(prefixes, codes.tolist(), strict=True)]
        want = [model.lm.base_model(inputs_embeds=row[None]).last_hidden_state[0, -12:] for row in rows]
        if writer == "copied":
            model.lm.set_attn_implementation("sdpa")
            found = CopyingWriter(model, prefixes, 12).follow(codes)
        else:
            found = engine.states(prefixes, codes)
    torch.testing.assert_close(found, torch.stack(want), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "levels"])
def test_a_look_at_a_training_draws_as_the_engine_does(
    name: str, trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    model = with_levels(trained) if name == "levels" else language_model(name, trained, tmp_path)
    prefixes, draws = two_prefixes(model), torch.rand(2, model.layout.tokens)
    plainly = SynthesisConfig(guidance=1.0, top_p=1.0)
    assert torch.equal(model.draw(prefixes, draws), Engine(model).decode(prefixes, [], draws, plainly))


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


# --- the engine


GREEDY = SynthesisConfig(top_k=1, guidance=1.0)


def a_batch(model: ImageLanguageModel) -> list[Prefix]:
    """Returns nine prefixes, three times each of two, twice one, once another; lengths differ."""
    a, b = two_prefixes(model)
    c, d = model.prefix(FRONTAL, "Moderate cardiomegaly.", []), model.prefix(LATERAL, "Nodule.", [])
    return [a, b, a, c, b, d, a, b, c]


def uncached_codes(model: ImageLanguageModel, prefix: Prefix, tokens: int) -> list[int]:
    """Returns greedy codes by the model's plain forward pass, one whole sequence a token."""
    first, codes = model.layout.first_code, list[int]()
    for _ in range(tokens):
        logits = model.lm(inputs_embeds=plain_inputs(model, prefix, codes)[None]).logits[0, -1]
        codes.append(int(logits[first : first + model.layout.codes].argmax()))
    return codes


@pytest.mark.parametrize("name", [*FAMILIES, *ELSEWHERE])
def test_decoding_equals_the_plain_forward_pass(name: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model(name, trained, tmp_path)
    prefixes = a_batch(model)
    want = {id(prefix): uncached_codes(model, prefix, 16) for prefix in prefixes}
    engine = Engine(model)
    assert engine.shares_prefixes == (name in FAMILIES)
    codes = engine.decode(prefixes, [], torch.full((9, 16), 0.5), GREEDY)
    assert codes.tolist() == [want[id(prefix)] for prefix in prefixes]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_those_of_generate(name: str, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    """Without the embeddings of cells and keypatches, which ``generate`` knows nothing of."""
    model = language_model(name, trained, tmp_path)
    at, table = model.layout, model.lm.get_input_embeddings().weight.data
    table[at.first_cell : at.first_code] = 0.0
    table[at.first_keypatch :] = 0.0
    prefixes = [model.prefix(FRONTAL, text, []) for text in ("Clear.", "Small left pleural effusion.", "Clear.")]
    ids, _, mask = model.pad(prefixes)
    others = [*range(at.first_code), *range(at.first_keypatch, at.size)]
    tokens = model.lm.generate(
        ids, attention_mask=mask, do_sample=False, min_new_tokens=16, max_new_tokens=16, suppress_tokens=others
    )
    codes = Engine(model).decode(prefixes, [], torch.zeros(3, 16), GREEDY)
    assert (codes + at.first_code).tolist() == tokens[:, -16:].tolist()


def test_guidance_contrasts_with_the_prefix_without_text(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    model = language_model("llama", trained, tmp_path)
    prefixes = a_batch(model)
    bare = [model.empty_prefix(LATERAL if at == 5 else FRONTAL) for at in range(9)]
    codes = Engine(model).decode(prefixes, bare, torch.zeros(9, 16), SynthesisConfig(top_k=1, guidance=2.5))
    first = model.layout.first_code
    for prefix, without, row in zip(prefixes, bare, codes.tolist(), strict=True):
        for place in (0, 1, 9):
            a, b = (
                model.lm(inputs_embeds=plain_inputs(model, each, row[:place])[None]).logits[0, -1]
                for each in (prefix, without)
            )
            assert int((b + 2.5 * (a - b))[first : first + 32].argmax()) == row[place]


def test_each_prefix_is_encoded_once_and_their_common_head_once_for_all(
    trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    model = language_model("llama", trained, tmp_path)
    engine, shapes = Engine(model), []
    model.lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    prefixes = [model.prefix(FRONTAL, text, []) for text in ("Clear lungs.", "Small effusion.")]
    lengths = [len(prefix.ids) for prefix in prefixes]
    head = next(at for at, (a, b) in enumerate(zip(*(p.ids for p in prefixes), strict=False)) if a != b)
    engine.decode([prefixes[0]] * 5 + [prefixes[1]] * 5, [], torch.zeros(10, 3), GREEDY)
    assert shapes == [(1, head), (2, max(lengths) - head), (10, 1), (10, 1)]


@pytest.mark.parametrize(
    ("name", "guidance", "compiled"),
    [("gpt-neox", 1.0, True), ("llama", 2.5, False), ("qwen", 1.0, False), ("levels", 2.5, True)],
)
def test_a_gpus_step_gives_the_same_tokens(
    name: str, guidance: float, compiled: bool, trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    """Its kernels, interpreted where there is no GPU; batches of another size and with other prefixes follow."""
    model = with_levels(trained) if name == "levels" else language_model(name, trained, tmp_path)
    prefixes, draws = a_batch(model), torch.rand(9, 12 if name == "levels" else 5)
    bare = [model.empty_prefix(FRONTAL)] * 9
    sampling = SynthesisConfig(top_p=0.9, guidance=guidance)
    want = Engine(model).decode(prefixes, bare, draws, sampling)
    engine = Engine(model, capture=True)
    assert engine._graph_decoder is not None
    if compiled:
        torch._dynamo.reset()
        engine._graph_decoder._codes = torch.compile(Writer.codes, backend="eager", fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for part in (slice(0, 9), slice(2, 7), slice(5, 9)):
            assert torch.equal(engine.decode(prefixes[part], bare[part], draws[part], sampling), want[part])


def refused(*_: object) -> torch.Tensor:
    raise torch._dynamo.exc.BackendCompilerFailed(refused, RuntimeError("Failed to find C compiler"), None)


def exhausted(*_: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def exhausted_in_a_capture(*_: object) -> torch.Tensor:
    try:
        return exhausted()
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def exhausted_on_a_cpu(*_: object) -> torch.Tensor:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


def test_a_step_that_cannot_be_compiled_is_taken_without(
    trained: tuple[Config, Paths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = language_model("llama", trained, tmp_path)
    prefixes, draws = a_batch(model)[:3], torch.rand(3, 3)
    want = Engine(model).decode(prefixes, [], draws, GREEDY)
    engine = Engine(model, capture=True)
    assert engine.path == "graph"
    assert engine._graph_decoder is not None
    engine._graph_decoder._codes = refused
    for images in (2, 3):  # a larger batch needs another graph
        assert torch.equal(engine.decode(prefixes[:images], [], draws[:images], GREEDY), want[:images])
        assert engine.path == "shared prefixes"
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "Failed to find C compiler" in warning
    assert "torch.compile needs a C compiler" in warning


@pytest.mark.parametrize("out_of_memory", [exhausted, exhausted_in_a_capture, exhausted_on_a_cpu])
def test_a_lack_of_memory_is_never_taken_for_another_failure(
    out_of_memory: Callable[..., torch.Tensor],
    trained: tuple[Config, Paths],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither when a step is captured nor when the replaced attention is tried: the slow path would stay for good."""
    model = language_model("llama", trained, tmp_path)
    engine = Engine(model, capture=True)
    assert engine._graph_decoder is not None
    engine._graph_decoder._codes = out_of_memory
    with pytest.raises(RuntimeError, match=r"out of memory|previous error|can't allocate"):
        engine.decode(a_batch(model)[:2], [], torch.rand(2, 3), GREEDY)
    assert engine.path == "graph"
    again = language_model("llama", trained, tmp_path)
    before = again.lm.config._attn_implementation
    monkeypatch.setattr(SharingWriter, "follow", out_of_memory)
    with pytest.raises(RuntimeError, match=r"out of memory|previous error|can't allocate"):
        Engine(again)
    assert again.lm.config._attn_implementation == before


def test_missing_triton_is_said(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it weren't installed
    engine = Engine(language_model("llama", trained, tmp_path), capture=True)
    assert engine.path == "shared prefixes"
    assert "LlamaForCausalLM decodes by shared prefixes, slower: Triton isn't installed; install" in caplog.text


def test_a_shards_log_line_says_how_it_was_decoded(
    trained: tuple[Config, Paths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = trained
    store = LocalStore(tmp_path / "store")
    caplog.set_level("INFO", logger="medsynth_core.synthesis.worker")
    params = SynthesisParams.of(config)
    identity = identify(params, paths, store)
    open_worker(params, paths, store, identity).make(rounds(params, paths, store, identity)[-1].plan, 0)
    assert caplog.messages[-1].endswith(", decoded by shared prefixes")


def test_an_attention_that_fails_when_replaced_is_said(
    trained: tuple[Config, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel for this width")

    model = language_model("llama", trained, tmp_path)
    monkeypatch.setattr(SharingWriter, "follow", unknown)
    assert Engine(model).path == "copied prefixes"
    assert "its attention can't be replaced (RuntimeError: no kernel for this width); a models.llm.base" in caplog.text


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_family_with_attention_of_its_own_is_not_captured(
    name: str, trained: tuple[Config, Paths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(language_model(name, trained, tmp_path), capture=True)
    assert engine.path == "copied prefixes"
    assert not engine.shares_prefixes
    assert len(caplog.records) == 1, "why is said once"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_gives_the_tokens_of_the_plain_forward_pass(
    name: str, trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    """In float32, compiled, three times: later batches replay what the first one captured, in other arrangements."""
    model = language_model(name, trained, tmp_path)
    prefixes = a_batch(model)
    want = {id(prefix): uncached_codes(model, prefix, 16) for prefix in prefixes}
    engine = Engine(model.cuda(), capture=True)
    assert engine._graph_decoder is not None
    for batch in (prefixes, prefixes[::-1], prefixes[3:8]):
        codes = engine.decode(batch, [], torch.full((len(batch), 16), 0.5), GREEDY)
        assert codes.tolist() == [want[id(prefix)] for prefix in batch]


def test_sampled_codes_follow_the_models_distribution(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    """First and second token of many images of one prompt, by a chi-square test each."""
    model = language_model("llama", trained, tmp_path)
    prefix, images = two_prefixes(model)[0], 20_000
    draws = torch.from_numpy(np.random.default_rng(7).random((images, 2), dtype=np.float32))
    sampling = SynthesisConfig(top_p=1.0, temperature=1.5, guidance=1.0)
    codes = Engine(model).decode([prefix] * images, [], draws, sampling)
    span = slice(model.layout.first_code, model.layout.first_code + 32)

    def probabilities(before: list[int]) -> torch.Tensor:
        logits = model.lm(inputs_embeds=plain_inputs(model, prefix, before)[None]).logits[0, -1, span]
        return torch.softmax(logits.double() / 1.5, 0).detach()

    first = probabilities([])
    second = sum(first[code] * probabilities([code]) for code in range(32))
    for token, expected in enumerate((first, second)):
        counts = torch.bincount(codes[:, token], minlength=32)
        assert chisquare(counts, images * expected / expected.sum()).pvalue > 1e-3


def test_the_sampled_distribution_is_the_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0, 0.0]])
    draws = torch.linspace(0, 1, 20_001)[:-1]
    picked = sample(logits.expand(len(draws), 4), draws, SynthesisConfig(top_p=1.0))
    shares = torch.bincount(picked, minlength=4) / len(draws)
    assert torch.allclose(shares, torch.softmax(logits[0], 0), atol=2e-4)
    kept = sample(logits.expand(len(draws), 4), draws, SynthesisConfig(top_p=0.7))
    assert set(kept.tolist()) == {0, 1}, "the smallest set whose mass reaches 0.7"
    assert set(sample(logits.expand(9, 4), draws[:9], SynthesisConfig(top_k=1)).tolist()) == {1}
    both = sample(logits.expand(len(draws), 4), draws, SynthesisConfig(top_k=3, top_p=0.95))
    assert set(both.tolist()) == {0, 1, 3}


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.floats(0.05, 1.0), st.sampled_from([0.0, 0.5, 1 - 2**-24]))
def test_a_draw_is_one_of_the_best_codes(seed: int, top_k: int, top_p: float, draw: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    picked = int(sample(logits, torch.tensor([draw]), SynthesisConfig(top_k=top_k, top_p=top_p)))
    rank = int((logits > logits[0, picked]).sum())
    best = torch.softmax(logits[0], 0).sort(descending=True).values
    best = best[: top_k or 12] / best[: top_k or 12].sum()
    assert rank < (top_k or 12)
    assert float(best[:rank].sum()) < top_p + 1e-6


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_packed_layers_compute_what_plain_ones_do_whatever_is_beside_a_row(dtype: torch.dtype, off: float) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN doesn't multiply {dtype} on this CPU")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(48, 96), nn.Sequential(nn.Linear(96, 64, bias=False)), Conv1D(32, 64)).to(dtype)
    inputs = torch.randn(33, 48, dtype=dtype)
    with torch.inference_mode():
        want = plain(inputs)
        pack_linears(plain)
        got = plain(inputs)
        assert torch.allclose(got, want, atol=off)
        assert torch.equal(plain(inputs[4:7]), got[4:7])
    assert not list(plain.parameters())


# --- the synthesiser


Asked = tuple[list[str], list[PromptRow], list[list[Keypatch]]]


def asked_of(synthesiser: Synthesiser, paths: Paths) -> Asked:
    """Returns ids, prompts and keypatches of two images of each of six prompts."""
    prompts = [prompt for prompt in read_prompts(paths["prompts"])[:6] for _ in range(2)]
    ids = [image_id("s", prompt.prompt_id, at % 2) for at, prompt in enumerate(prompts)]
    return ids, prompts, synthesiser.keypatches(prompts)


def test_an_image_does_not_depend_on_its_batch(trained: tuple[Config, Paths]) -> None:
    """In float32 on a CPU; the docs state how far a batch shape may move a pixel."""
    synthesiser = Synthesiser.load(SynthesisParams.of(trained[0]), trained[1])
    ids, prompts, keypatches = asked_of(synthesiser, trained[1])
    together = synthesiser.images(ids, prompts, keypatches)
    alone = synthesiser.images(ids[2:3], prompts[2:3], keypatches[2:3])
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1


def test_a_gpu_without_memory_gets_smaller_batches(
    trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    synthesiser = Synthesiser.load(SynthesisParams.of(trained[0]), trained[1])
    asked = asked_of(synthesiser, trained[1])
    want = synthesiser.images(*asked)
    sizes, decode = [], Engine.decode

    def small(self: Engine, prefixes: list[Prefix], *rest: object) -> torch.Tensor:
        sizes.append(len(prefixes))
        if len(prefixes) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(self, prefixes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "decode", small)
    got = synthesiser.images(*asked)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert sizes[0] > 3
    assert max(sizes[sizes.index(3) if 3 in sizes else sizes.index(2) :]) <= 3
    assert "out of memory" in caplog.text
    monkeypatch.setattr(Engine, "decode", lambda *_: (_ for _ in ()).throw(ValueError("another fault")))
    with pytest.raises(ValueError, match="another fault"):
        synthesiser.images(*asked)


def test_a_gpu_without_memory_renders_and_judges_fewer_at_once(
    trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = trained
    synthesiser = Synthesiser.load(SynthesisParams.of(config), paths)
    judging = load_judging(paths["calibrate"], synthesiser.alignment, synthesiser.image_size)
    asked = asked_of(synthesiser, paths)
    texts = [prompt.query for prompt in asked[1]]
    want = synthesiser.images(*asked)
    scores = judging.agreement(want, texts)
    sizes: dict[str, list[int]] = {"decode": [], "agreement": []}

    def limit(model: type[VQGAN | AlignmentModel], name: str) -> None:
        call = getattr(model, name)

        def limited(self: object, inputs: torch.Tensor, *rest: object) -> torch.Tensor:
            sizes[name].append(len(inputs))
            if len(inputs) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return call(self, inputs, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(model, name, limited)

    limit(VQGAN, "decode")
    limit(AlignmentModel, "agreement")
    assert np.abs(synthesiser.images(*asked).astype(int) - want).max() <= 1
    np.testing.assert_allclose(judging.agreement(want, texts), scores, atol=1e-5)
    for each in sizes.values():
        assert each[0] > 3
        assert each.count(each[0]) == 1, "what doesn't fit is tried once"
    assert "images rendered at once" in caplog.text
    assert "images judged at once" in caplog.text


def test_one_batch_is_decoded_ahead_and_no_more(trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch) -> None:
    config, paths = trained
    synthesiser = Synthesiser.load(SynthesisParams.of(tiny_batches(config)), paths)
    begun, decode = [], Engine.decode

    def counted(self: Engine, *inputs: object) -> torch.Tensor:
        begun.append(1)
        return decode(self, *inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "decode", counted)
    for done, _ in enumerate(synthesiser.batches(*asked_of(synthesiser, paths)), 1):
        for _ in range(200):
            if len(begun) == min(done + 1, 6):
                break
            time.sleep(0.01)
        time.sleep(0.02)
        assert len(begun) == min(done + 1, 6), "the next is under way, the one after it is not"


def tiny_batches(config: Config) -> Config:
    return config.model_copy(
        update={"synthesis": config.synthesis.model_copy(update={"batch_size": 2, "samples_per_prompt": 2})}
    )


def test_batches_are_as_large_as_memory_and_keep_prompts_together(
    trained: tuple[Config, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, paths = trained
    free = config.model_copy(update={"synthesis": config.synthesis.model_copy(update={"batch_size": None})})
    synthesiser = Synthesiser.load(SynthesisParams.of(free), paths)
    roomy, guided = SynthesisConfig(guidance=1.0), SynthesisConfig(guidance=2.0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000_000))
    fits = synthesiser.engine.images_that_fit(40, roomy)
    assert 1 < fits < 1024
    assert synthesiser.engine.images_that_fit(40, guided) == fits // 2
    assert synthesiser.engine.images_that_fit(400, roomy) < fits
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1))
    assert synthesiser.engine.images_that_fit(40, roomy) == 1
    synthesiser._most_images = 10
    assert [synthesiser._batch_size(waiting, 40) for waiting in (24, 16, 10, 3)] == [8, 8, 10, 4]


# --- identity


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 50))
def test_a_plan_is_a_partition_and_ids_ignore_it(n_prompts: int, samples: int, shard_images: int) -> None:
    prompts = tuple(f"p{i}" for i in range(n_prompts))
    plan = ShardPlan("spec", "run", prompts, ((0, samples),) * n_prompts, shard_images)
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
    sampling = SynthesisConfig()
    base = spec_hash(prompts, models, sampling, "float32")
    other = SynthesisConfig(shard_images=7, batch_size=3, samples_per_prompt=9, precision="float32")
    assert base == spec_hash(prompts, models, other, "float32"), "what auto resolves to is what counts"
    assert base != spec_hash(prompts, models, sampling, "bf16")
    assert base != spec_hash(prompts, models, SynthesisConfig(temperature=0.9), "float32")
    assert base != spec_hash(prompts, {"llm": "b"}, sampling, "float32")
    assert base != spec_hash([{"id": "p0", "text": "Effusion."}], models, sampling, "float32")


def identity_of(config: Config, root: Path) -> RunIdentity:
    return identify(SynthesisParams.of(config), workspace_paths(root, config), LocalStore(root / "store"))


def test_judge_and_filters_change_the_run_and_never_the_images(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    """One NIQE score changed by 1e-6, with that filter off, once gave other images."""
    config, paths = trained
    for name in ("data", "models"):
        shutil.copytree(paths.root / name, tmp_path / name)
    filters = tmp_path / "models" / "filters"
    before = identity_of(config, tmp_path)
    assert before == identity_of(config, paths.root)

    def quality(**changes: Any) -> Config:
        return config.model_copy(update={"quality": config.quality.model_copy(update=changes)})

    niqe = filters / "niqe" / "scores.json"
    niqe.write_text(niqe.read_text().replace("]", ", 9.000001]"))
    off = quality(sharpness=SHARPNESS.settings(quantile=0.4))
    assert identity_of(off, tmp_path) == before, "what a disabled filter compares with, and its settings, are nothing"
    on = identity_of(quality(enabled=("sharpness", *config.quality.enabled)), tmp_path)
    assert (on.spec_hash, on.verdicts == before.verdicts) == (before.spec_hash, False)
    margin = identity_of(quality(margin=0.7), tmp_path)
    assert (margin.spec_hash, margin.verdicts == before.verdicts) == (before.spec_hash, False)
    temperature = filters / "judge" / "temperature.json"
    temperature.write_text('{"temperature": 2.5}')
    retrained = identity_of(config, tmp_path)
    assert (retrained.spec_hash, retrained.verdicts == before.verdicts) == (before.spec_hash, False)
    assert retrained.judge_sha256 != before.judge_sha256, "features of another judge aren't compared"


def test_shards_of_another_split_are_another_run(trained: tuple[Config, Paths]) -> None:
    config, paths = trained
    identity = identity_of(config, paths.root)
    plans = [plan_shards(identity, ["p0"], [(0, 4)], config.synthesis, split) for split in ("train", "test")]
    assert plans[0].run_id != plans[1].run_id
    assert plans[0].requests(0) == plans[1].requests(0)


def test_a_memorised_training_image_is_rejected(trained: tuple[Config, Paths]) -> None:
    """A generator that has memorised an image emits its codes: what comes back is their rendering, not the original."""
    config, paths = trained
    vqgan = VQGAN.load(paths["vqgan"])
    pixels = torch.from_numpy(read_pairs(paths, "train").flat_pixels(0, 4))
    copied = to_images(vqgan.decode(vqgan.encode(pixels)))
    quality = config.quality.model_copy(update={"enabled": ("duplicate",)})
    bounds, alignment = bounds_of(paths["calibrate"], quality), AlignmentModel.load(paths["alignment"])
    chain = load_chain(paths["calibrate"], quality, bounds, alignment, config.corpus.image_size)
    verdicts = chain.verdicts(copied, read_prompts(paths["prompts"])[:4])
    assert [verdict.reasons for verdict in verdicts] == [["duplicate:training"]] * 4


def test_models_of_an_earlier_checkout_are_refused_in_one_line(trained: tuple[Config, Paths], tmp_path: Path) -> None:
    config, paths = trained
    for name in ("data", "models"):
        shutil.copytree(paths.root / name, tmp_path / name)
    shutil.rmtree(tmp_path / "models" / "filters")
    with pytest.raises(InputError, match=r"models/filters: no calibrated filters there; run `medsynth calibrate`"):
        identity_of(config, tmp_path)
    models = config.models.model_copy(update={"path": str(tmp_path / "models")})
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match=r"models/filters: no calibrated filters there"):
        check(config.model_copy(update={"models": models}), tmp_path)
