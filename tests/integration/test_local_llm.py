"""A chat model made on the spot, run here and behind ``transformers serve``, an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from pydantic import SecretStr
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.server import serving
from medsynth_core.config import Paths
from medsynth_core.errors import InputError
from medsynth_core.progress import silent
from medsynth_core.prompts.account import Account, Budget
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.providers.openai import budget
from medsynth_core.prompts.providers.template import TemplateProvider
from medsynth_core.prompts.providers.transformers import LocalLLMConfig, LocalProvider, _Reword
from medsynth_core.prompts.records import Assignment, Draft
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.server.direct import OpenAIProvider
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.stages import perform
from medsynth_core.workspace.tree import Config
from tests.conftest import tiny

pytestmark = pytest.mark.integration
TEXT = "The lungs are clear. Heart size is normal."
TEMPLATE = "{% for m in messages %}{{ m['content'][:24] }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that has learnt to say one sentence of a normal chest, whatever it is asked."""
    folder = tmp_path_factory.mktemp("chat")
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.train_from_iterator(
        [TEXT] * 4,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=4096, eos_token_id=1, pad_token_id=0, bos_token_id=None,
        )
    )  # fmt: skip
    prompt = "You write the findings s\n" + '{"vocabulary": {"anatomy"'[:24] + "\n> "
    given = tokenizer(prompt)["input_ids"]
    said = [*tokenizer(TEXT)["input_ids"], 1]
    ids = torch.tensor([given + said])
    labels = torch.tensor([[-100] * len(given) + said])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.01
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def drafts_of(
    folder: Path, vocabulary: Vocabulary, trained: tuple[Config, Paths], ask: str = "instruct", **changes: float
) -> list[Draft]:
    config = LocalLLMConfig(model=str(folder), batch_size=4, ask=ask, **changes)  # type: ignore[arg-type]
    provider = LocalProvider(config, vocabulary, 0, "cpu")
    requests = sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0)
    account = Account(Ledger(None), "plan", Budget())
    replies = provider.write([Assignment(r.prompt_id, r) for r in requests], account)
    return [draft for reply in replies for draft in reply.drafts]


def test_a_local_model_writes(chat_model: Path, vocabulary: Vocabulary, trained: tuple[Config, Paths]) -> None:
    drafts = drafts_of(chat_model, vocabulary, trained, temperature=0.0)
    assert [draft.text for draft in drafts] == [TEXT] * 6
    assert all(draft.usage.input_tokens and draft.usage.output_tokens for draft in drafts)
    again = [drafts_of(chat_model, vocabulary, trained, temperature=1.5) for _ in range(2)]
    assert again[0] == again[1], "the same requests give the same texts"


def test_a_local_answer_that_is_cut_off_is_a_problem(
    chat_model: Path, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    drafts = drafts_of(chat_model, vocabulary, trained, temperature=0.0, max_new_tokens=3)
    assert {draft.problem for draft in drafts} == {
        "answer: cut off at the token limit (prompts.transformers.max_new_tokens)"
    }


def test_a_model_that_rewords_is_shown_how(vocabulary: Vocabulary, trained: tuple[Config, Paths]) -> None:
    request = next(r for r in sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0) if r.findings)
    asking, templates = _Reword(vocabulary, 0), TemplateProvider(vocabulary, 0)
    first, second = (asking.prompt(Assignment("key", request, attempt), None) for attempt in (0, 1))
    assert first == asking.prompt(Assignment("key", request, 0), None)
    for attempt, asked in ((0, first), (1, second)):
        *shown, last = asked.split("Report: ")[1:]
        assert last == f"{templates.text(request, attempt)}\nIn other words:"
        assert len(shown) == 4
        pairs = [pair.strip().split("\nIn other words: ") for pair in shown]
        assert all(before != after for before, after in pairs)
        assert all(templates.text(request, attempt) not in pair for pair in pairs)
    assert first.split("Report: ")[1:-1] != second.split("Report: ")[1:-1]


def test_an_answer_of_a_model_that_rewords_ends_with_its_line(
    chat_model: Path, vocabulary: Vocabulary, trained: tuple[Config, Paths], tmp_path: Path
) -> None:
    """What it goes on with, the next report of its own, isn't read, and isn't waited for."""
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model = AutoModelForCausalLM.from_pretrained(chat_model)
    said = tokenizer(f" {TEXT}\nReport: {TEXT * 9}")["input_ids"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        ids = torch.tensor([tokenizer("In other words:")["input_ids"] + said])
        loss = model(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with patch.object(_Reword, "prompt", lambda *_: "In other words:"):
        drafts = drafts_of(tmp_path, vocabulary, trained, ask="reword", temperature=0.0)
    assert [draft.text for draft in drafts] == [TEXT] * 6
    assert all(draft.usage.output_tokens < len(said) / 2 for draft in drafts)


def test_the_stage_with_a_local_model(chat_model: Path, trained: tuple[Config, Paths], tmp_path: Path) -> None:
    """One text is accepted once, for a normal chest; the other requests are rejected for what is wrong with it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocabulary").symlink_to(trained[1]["vocabulary"])
    local = {"model": str(chat_model), "temperature": 0.0, "ask": "instruct"}
    config = tiny(prompts={"n": 8, "provider": "transformers", "normal_fraction": 0.5, "transformers": local})
    report = perform("prompts", config, tmp_path, silent)
    assert report.accepted == 1
    assert set(report.rejected) == {"missing", "duplicate"}
    assert sum(report.rejected.values()) == 7
    assert report.input_tokens > 0
    assert report.spent_tokens == 0


def test_a_model_that_is_not_there_is_one_clear_error(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer there"):
        LocalProvider(LocalLLMConfig(model=str(tmp_path)), vocabulary, 0, "cpu")


@pytest.fixture(scope="module")
def served(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of ``transformers serve``."""
    arguments = ("serve", str(chat_model), "--host", "127.0.0.1", "--port", "{port}", "--device", "cpu")
    folder = tmp_path_factory.mktemp("served")
    with serving("transformers", folder, "/health", {"HF_HUB_OFFLINE": "1"}, arguments) as address:
        yield f"{address}/v1"


def test_an_openai_compatible_server_of_another_maker(
    served: str, chat_model: Path, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    """The protocol holds: a schema that it doesn't take, its usage, and an answer that is no JSON."""
    config = OpenAIConfig(base_url=served, model=str(chat_model), prompts_per_call=2, concurrency=2, temperature=0.0)
    provider = OpenAIProvider(config, vocabulary, SecretStr("any"))
    requests = sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0)
    account = Account(Ledger(None), "plan", budget(config))
    replies = list(provider.write([Assignment(r.prompt_id, r) for r in requests], account))
    drafts = [draft for reply in replies for draft in reply.drafts]
    assert len(drafts) == 6
    assert {draft.problem for draft in drafts} == {"answer: no JSON in it"}
    assert all(TEXT in reply.raw for reply in replies)
    assert account.ledger.spent("plan")[0] == sum(draft.usage.total for draft in drafts) > 0
