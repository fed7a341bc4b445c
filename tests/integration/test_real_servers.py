"""Answers and refusals as servers really give them: what is readable is read, what isn't is told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from benchmarks.llm_server import Answer, LLMServer, completion, failing
from benchmarks.server import free_port
from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, TransientError
from medsynth_core.prompts.account import Account
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.providers.openai import budget
from medsynth_core.prompts.records import Assignment, Draft
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.prompts.server.batch import BatchProvider
from medsynth_core.prompts.server.direct import OpenAIProvider
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration
TWO = '{"prompts": [{"id": "1", "text": "One."}, {"id": "2", "text": "Two."}]}'
READ: dict[str, str] = {
    "a thought that the prompt opened": f"First {{1}} and then [2].</think>\n{TWO}",
    "another tag of thoughts": f"<thinking>{{}}</thinking>{TWO}",
    "harmony": f"<|channel|>analysis<|message|>{{}}<|end|><|channel|>final<|message|>{TWO}",
    "a fence": f"```json\n{TWO}\n```",
    "prose around it": f"Sure [as asked]: here {{it}} is. {TWO} Anything else?",
    "commas too many": '{"prompts": [{"id": "1", "text": "One.",}, {"id": "2", "text": "Two.",},]}',
    "curly quotes": "{\u201cprompts\u201d: [{\u201cid\u201d: \u201c1\u201d, \u201ctext\u201d: \u201cOne.\u201d}, "
    "{\u201cid\u201d: \u201c2\u201d, \u201ctext\u201d: \u201cTwo.\u201d}]}",
    "line breaks in strings": '{"prompts": [{"id": "1", "text": "One.\n"}, {"id": "2", "text": "\nTwo."}]}',
    "a bare list": '[{"id": "1", "text": "One."}, {"id": "2", "text": "Two."}]',
    "a list of texts": '{"prompts": ["One.", "Two."]}',
    "another key": '{"reports": [{"id": 1, "report": "One."}, {"id": 2, "report": "Two."}]}',
    "ids as numbers": '{"prompts": [{"id": 1, "text": "One."}, {"id": 2, "text": "Two."}]}',
    "ids from 0": '{"prompts": [{"id": 0, "text": "One."}, {"id": 1, "text": "Two."}]}',
    "ids in words": '{"prompts": [{"id": "request_2", "text": "Two."}, {"id": "request_1", "text": "One."}]}',
    "no ids": '{"prompts": [{"text": "One."}, {"text": "Two."}]}',
    "keys too many": '{"note": "x", "prompts": [{"id": "1", "text": "One.", "n": 3}, {"id": "2", "text": "Two."}]}',
}
USAGE: dict[str, tuple[Any, int]] = {
    "none": (None, 0),
    "empty": ({}, 0),
    "nulls": ({"prompt_tokens": None, "completion_tokens": None}, 0),
    "the total alone": ({"total_tokens": 501}, 0),
    "floats": ({"prompt_tokens": 400.0, "completion_tokens": 101.0, "total_tokens": 501.0}, 501),
}
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a web page": (lambda _: (200, {}, b"<!doctype html><html>"), ConfigError, "answers with a web page; set prompts"),
    "a stream": (lambda _: (200, {}, b'data: {"choices": []}\n\n'), ConfigError, "a stream of events"),
    "no model": (failing(404, message="model 'x' not found, try pulling it first"), ConfigError, "knows no model"),
    "no such path": (failing(404, message="Not Found"), ConfigError, "has no chat completions .* ends in /v1"),
    "temperature": (failing(400, message="'temperature' does not support 0.9"), ConfigError, "temperature=null"),
    "roles": (failing(400, message="System role not supported"), ConfigError, "refused the request: .*System role"),
}
NO_ROOM: dict[str, Any] = {
    "OpenAI's words": failing(400, message="This model's maximum context length is 4096 tokens. However, you asked"),
    "its code": failing(400, message="no", code="context_length_exceeded"),
    "llama.cpp's": failing(400, message="the request exceeds the available context size. try increasing it"),
    "vLLM's": failing(400, message="max_tokens=9000 cannot be greater than max_model_len=8192"),
    "LM Studio's": failing(400, message="Trying to keep the first 9000 tokens, but the context window is 4096"),
    "said at length": failing(400, message=f"{'x ' * 150}maximum context length"),
}


@pytest.fixture
def assignments(trained: tuple[Config, Paths], vocabulary: Vocabulary) -> list[Assignment]:
    requests = sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0)
    return [Assignment(request.prompt_id, request) for request in requests]


def written(
    url: str, vocabulary: Vocabulary, assignments: list[Assignment], account: Account | None = None
) -> list[Draft]:
    config = OpenAIConfig(base_url=url, concurrency=1, max_retries=1, prompts_per_call=2, timeout_s=2.0)
    provider = OpenAIProvider(config, vocabulary, SecretStr("key"))
    replies = provider.write(assignments, account or Account(Ledger(None), "plan", budget(config)))
    return [draft for reply in replies for draft in reply.drafts]


def written_as_a_batch(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], account: Account | None = None
) -> list[Draft]:
    config = OpenAIConfig(base_url=server.url, mode="batch", prompts_per_call=2, batch_poll_s=0.02, max_retries=0)
    provider = BatchProvider(config, vocabulary, SecretStr("key"))
    replies = provider.write(assignments, account or Account(Ledger(None), "plan", budget(config)))
    return [draft for reply in replies for draft in reply.drafts]


def in_a_batch(status: int, body: Any) -> Callable[[int, str], dict[str, Any]]:
    """Returns what makes every line of a batch such an answer."""
    return lambda _, call: {"custom_id": call, "response": {"status_code": status, "body": body}}


def changed(answer: Answer, change: dict[str, Any]) -> Answer:
    status, headers, data = answer
    return status, headers, json.dumps(json.loads(data) | change).encode()


@pytest.mark.parametrize("name", READ)
def test_what_is_readable_is_read(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    server.script = [lambda _: completion(READ[name])]
    assert [draft.text for draft in written(server.url, vocabulary, assignments[:2])] == ["One.", "Two."]


@pytest.mark.parametrize("name", READ)
def test_it_is_read_of_a_batch_as_well(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    server.batch_line = in_a_batch(200, json.loads(completion(READ[name])[2]))
    assert [draft.text for draft in written_as_a_batch(server, vocabulary, assignments[:2])] == ["One.", "Two."]


@pytest.mark.parametrize("name", USAGE)
def test_tokens_that_a_batch_does_not_count(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    usage, spent = USAGE[name]
    account = Account(Ledger(None), "plan", budget(OpenAIConfig()))
    server.batch_line = in_a_batch(200, json.loads(completion(TWO)[2]) | {"usage": usage})
    drafts = written_as_a_batch(server, vocabulary, assignments[:2], account)
    assert [draft.text for draft in drafts] == ["One.", "Two."]
    assert len(server.batches) == 1
    assert account.ledger.spent("plan")[0] == spent or account.ledger.spent("plan")[0] > 501, "the bound, where unknown"


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in {"a web page", "a stream"}])
def test_a_refusal_in_a_batch_is_told_and_no_second_one_is_handed_in(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    reply, _, said = REFUSED[name]
    status, _, data = reply({})
    server.batch_line = in_a_batch(status, json.loads(data))
    account = Account(Ledger(None), "plan", budget(OpenAIConfig()))
    with pytest.raises(ConfigError, match=said if name != "no such path" else "Not Found") as told:
        written_as_a_batch(server, vocabulary, assignments[:2], account)
    assert str(told.value).endswith("(it refused every call of batch batch-0)")
    assert len(server.batches) == 1
    assert account.ledger.spent("plan")[0] == 0


def test_a_refusal_in_a_batch_may_be_words_alone(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.batch_line = in_a_batch(404, {"error": "model 'm' not found"})
    with pytest.raises(ConfigError, match="knows no model"):
        written_as_a_batch(server, vocabulary, assignments[:2])


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": TWO[:20]}, {"type": "text", "text": TWO[20:]}]},
        {"content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": TWO}}]},
        {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": json.loads(TWO)}}]},
        {"content": None, "function_call": {"name": "f", "arguments": TWO}},
        {"content": TWO, "reasoning_content": "Hm."},
    ],
)
def test_it_is_read_wherever_it_stands(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], message: dict[str, Any]
) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    empty = {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}
    server.script = [lambda _: changed(completion("x"), {"choices": [empty, choice]})]
    assert [draft.text for draft in written(server.url, vocabulary, assignments[:2])] == ["One.", "Two."]


def test_what_is_whole_of_an_answer_that_was_cut_off_is_read(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [lambda _: completion(TWO, "length"), lambda _: completion(TWO[:-12], "length")]
    assert [draft.text for draft in written(server.url, vocabulary, assignments[:2])] == ["One.", "Two."]
    first, second = written(server.url, vocabulary, assignments[:2])
    assert first.text == "One."
    assert second.problem == "answer: cut off at the token limit (prompts.openai.tokens_per_prompt)"


@pytest.mark.parametrize("name", USAGE)
def test_tokens_that_a_server_does_not_count(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    usage, spent = USAGE[name]
    account = Account(Ledger(None), "plan", budget(OpenAIConfig()))
    server.script = [lambda _: changed(completion(TWO), {"usage": usage})]
    assert [draft.text for draft in written(server.url, vocabulary, assignments[:2], account)] == ["One.", "Two."]
    assert len(server.bodies) == 1
    assert account.ledger.spent("plan")[0] == spent or account.ledger.spent("plan")[0] > 501, "the bound, where unknown"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_told_at_once(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    reply, kind, said = REFUSED[name]
    server.script = [reply] * 9
    with pytest.raises(kind, match=said):
        written(server.url, vocabulary, assignments[:2])
    assert len(server.bodies) == 1, "no other way of asking is tried"


def test_an_error_in_a_good_answer_is_told(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [lambda _: (200, {}, b'{"error": {"message": "the model is loading"}}')] * 9
    with pytest.raises(TransientError, match="answered no call, the last with an error: the model is loading"):
        written(server.url, vocabulary, assignments[:2])


def test_a_server_that_fails_at_a_format_is_asked_without(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment]
) -> None:
    server.script = [failing(500, message="response_format is not implemented")] * 2
    assert all(draft.text for draft in written(server.url, vocabulary, assignments[:2]))
    forms = [json.loads(body.partition(b"\n\n")[2]).get("response_format", {}).get("type") for body in server.bodies]
    assert forms == ["json_schema", "json_object", None]


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_server_without_room_is_asked_for_fewer_texts_a_call(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    account = Account(Ledger(None), "plan", budget(OpenAIConfig()))
    server.script = [NO_ROOM[name]]
    drafts = written(server.url, vocabulary, assignments[:5], account)
    assert all(draft.text for draft in drafts)
    assert len(drafts) == 5, "none is lost"
    bodies = [json.loads(body.partition(b"\n\n")[2]) for body in server.bodies]
    assert len(bodies) == 1 + 5, "the refused one, then one for each"
    assert {body["response_format"]["type"] for body in bodies} == {"json_schema"}, "it is no refusal of the format"
    assert account.ledger.spent("plan")[0] == 5 * 501, "a refusal costs nothing"


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_server_without_room_for_one_text_is_told_of(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    server.script = [NO_ROOM[name]] * 9
    with pytest.raises(ConfigError, match=r"even for one text: .*; lower prompts.openai.tokens_per_prompt"):
        written(server.url, vocabulary, assignments[:2])
    assert len(server.bodies) == 2
    server.batch_line = in_a_batch(400, json.loads(NO_ROOM[name]({})[2]))
    with pytest.raises(ConfigError, match=r"even for one text: .* \(it refused every call of batch batch-1\)"):
        written_as_a_batch(server, vocabulary, assignments[:2])
    assert len(server.batches) == 2


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_batch_without_room_is_handed_in_again_with_fewer_texts_a_call(
    server: LLMServer, vocabulary: Vocabulary, assignments: list[Assignment], name: str
) -> None:
    def once(number: int, call: str) -> Any:
        return in_a_batch(400, json.loads(NO_ROOM[name]({})[2]))(number, call) if len(server.batches) == 1 else None

    server.batch_line = once
    account = Account(Ledger(None), "plan", budget(OpenAIConfig()))
    drafts = written_as_a_batch(server, vocabulary, assignments[:4], account)
    assert [bool(draft.text) for draft in drafts] == [True] * 4
    assert len(server.batches) == 2
    assert account.ledger.spent("plan")[0] == 4 * 501


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("http://127.0.0.1:{port}/v1", TransientError, "refuses connections: nothing listens there"),
        ("http://nowhere.invalid/v1", ConfigError, "isn't known by that name"),
    ],
)
def test_a_server_that_is_not_there_is_told_at_once(
    vocabulary: Vocabulary, assignments: list[Assignment], url: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        written(url.format(port=free_port()), vocabulary, assignments[:2])
