"""The OpenAI provider against a real HTTP server that answers, refuses and fails as asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from medsynth_core.config import Config, Paths
from medsynth_core.config.tree import OpenAIConfig
from medsynth_core.errors import ConfigError, TransientError
from medsynth_core.prompts.providers.openai import OpenAIProvider
from medsynth_core.prompts.sampling import sample_requests
from medsynth_core.vocabulary.vocabulary import Vocabulary

pytestmark = pytest.mark.integration
Reply = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


def completion(text: str | None, finish: str = "stop") -> tuple[int, dict[str, str], bytes]:
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50},
    }
    return 200, {}, json.dumps(body).encode()


def good(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    asked = json.loads(request["messages"][1]["content"])["requests"]
    return completion(json.dumps({"prompts": [{"id": r["id"], "text": f"Text of {r['id']}."} for r in asked]}))


class Server:
    """Answers from a script, then with good answers; keeps every body it was sent."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.bodies: list[bytes] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.bodies.append(body)
                reply = server.script.pop(0) if server.script else good
                status, headers, data = reply(json.loads(body))
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()


@pytest.fixture
def vocabulary(trained: tuple[Config, Paths]) -> Vocabulary:
    return Vocabulary.load(trained[1].vocabulary / "vocabulary.json")


def provider(server: Server, vocabulary: Vocabulary, **changes: Any) -> OpenAIProvider:
    address = f"http://127.0.0.1:{server.http.server_port}/v1"
    config = OpenAIConfig(base_url=address, concurrency=1, max_retries=2, **{"prompts_per_call": 3, **changes})
    return OpenAIProvider(config, vocabulary, SecretStr("key-that-must-stay-secret"))


def requests_of(trained: tuple[Config, Paths], vocabulary: Vocabulary) -> list[Any]:
    return sample_requests(vocabulary, trained[0].prompts, "frontal", seed=0)


def test_several_prompts_a_call_and_tokens_are_shared_out(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    asked = requests_of(trained, vocabulary)
    drafts = provider(server, vocabulary).write(asked, [None] * 6, 0)
    assert [draft.text for draft in drafts] == [f"Text of p{i:05d}." for i in range(6)]
    assert len(server.bodies) == 2
    assert sum(draft.usage.input_tokens for draft in drafts) == 78
    assert json.loads(server.bodies[0])["response_format"]["type"] == "json_schema"


def test_a_busy_server_is_asked_again(server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths]) -> None:
    server.script = [lambda _: (429, {"Retry-After": "0.01"}, b"{}"), lambda _: (503, {}, b"{}")]
    drafts = provider(server, vocabulary).write(requests_of(trained, vocabulary)[:1], [None], 0)
    assert drafts[0].text == "Text of p00000."
    assert len(server.bodies) == 3


def test_a_server_that_stays_busy_is_a_transient_failure(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    server.script = [lambda _: (500, {}, b"{}")] * 3
    with pytest.raises(TransientError, match="failed 3 times"):
        provider(server, vocabulary).write(requests_of(trained, vocabulary)[:1], [None], 0)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_is_a_configuration_error(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths], status: int
) -> None:
    server.script = [lambda _: (status, {}, b'{"error": {"message": "no"}}')]
    with pytest.raises(ConfigError, match="LLM server") as caught:
        provider(server, vocabulary).write(requests_of(trained, vocabulary)[:1], [None], 0)
    assert "key-that-must-stay-secret" not in str(caught.value)


def test_a_server_without_schemas_is_asked_in_plain_text(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    server.script = [lambda _: (400, {}, b'{"error": {"message": "no json_schema"}}')]
    drafts = provider(server, vocabulary).write(requests_of(trained, vocabulary)[:4], [None] * 4, 0)
    assert all(draft.text for draft in drafts)
    assert ["response_format" in json.loads(body) for body in server.bodies] == [True, False, False]


@pytest.mark.parametrize(
    "reply",
    [
        lambda _: completion("not json"),
        lambda _: completion('{"texts": []}'),
        lambda _: completion(None),
        lambda _: completion('{"prompts": [', "length"),
        lambda _: completion('{"prompts": [{"id": "other", "text": "x"}]}'),
    ],
)
def test_an_unusable_answer_is_a_draft_with_a_problem(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths], reply: Reply
) -> None:
    server.script = [reply]
    draft = provider(server, vocabulary).write(requests_of(trained, vocabulary)[:1], [None], 0)[0]
    assert draft.text is None
    assert draft.problem is not None
    assert draft.problem.startswith("answer:")


def test_only_terms_and_instructions_leave(
    server: Server, vocabulary: Vocabulary, trained: tuple[Config, Paths]
) -> None:
    from medsynth_core.corpus.normalised import Corpus

    asked = requests_of(trained, vocabulary)
    provider(server, vocabulary).write(asked, ["missing: pneumothorax is not asserted"] * 6, 1)
    sent = b"".join(server.bodies).decode()
    for row in Corpus.open(trained[1].corpus).studies().to_pylist():
        for sentence in row["findings"].split(". "):
            assert len(sentence.split()) < 4 or sentence not in sent
        assert row["patient_id"] not in sent
