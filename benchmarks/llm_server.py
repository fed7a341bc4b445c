"""An OpenAI-compatible HTTP server that answers well, and fails as a script says."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from medsynth_core.models.condition import RequestedFinding
from medsynth_core.prompts.providers.template import TemplateProvider
from medsynth_core.prompts.records import PromptRequest
from medsynth_core.vocabulary.vocabulary import Vocabulary

Answer = tuple[int, dict[str, str], bytes]
Reply = Callable[[dict[str, Any]], Answer]
_POLL_S = 0.02
"""Within which it notices that it is to stop."""


def completion(text: str | None, finish: str = "stop", **message: Any) -> Answer:
    """Returns a chat completion that says ``text``."""
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 400, "completion_tokens": 101, "total_tokens": 501},
    }
    return 200, {}, json.dumps(body).encode()


def without_choice(_: dict[str, Any]) -> Answer:
    """Returns a completion that holds no choice."""
    status, headers, data = completion("x")
    return status, headers, json.dumps({**json.loads(data), "choices": []}).encode()


def failing(status: int, headers: dict[str, str] | None = None, message: str = "no", code: str | None = None) -> Reply:
    """Returns a reply that refuses."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda _: (status, headers or {}, body)


RESET = -1
SILENCE = -2
FAULTS: dict[str, Reply] = {
    "429 with Retry-After": failing(429, {"Retry-After": "0.05"}),
    "429": failing(429),
    "500": failing(500),
    "503": failing(503),
    "time-out": lambda _: (SILENCE, {}, b""),
    "reset in the body": lambda _: (RESET, {}, b""),
    "malformed JSON": lambda _: completion('{"prompts": [{"id": "1", "text": "Small'),
    "another schema": lambda _: completion('{"verdict": {"lungs": 1}}'),
    "refusal": lambda _: completion(None, refusal="I can't help with that."),
    "no choice": without_choice,
    "cut off": lambda _: completion('{"prompts": [{"id": "1", "te', "length"),
    "duplicate": lambda request: completion(
        json.dumps({"prompts": [{"id": r["id"], "text": "The lungs are clear."} for r in asked(request)]})
    ),
}
"""Every way of failing by name; a duplicate is adherent only to a request for a normal chest."""


def asked(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the requests of a call's body."""
    found: list[dict[str, Any]] = json.loads(request["messages"][1]["content"])["requests"]
    return found


class LLMServer:
    """Serves /v1 on a free port.

    Attributes:
        script: replies to be given first; then ``fault_rate`` of the calls fail, the rest is answered well.
        bodies: every byte that was sent to it, headers included.
        answered: how often each call's content was answered to the end with a completion.
        tokens: that it has charged for.
        arrivals: when calls came, in seconds of the monotonic clock.
        batches: by id, as the Batch API shows them.
        polls_until_done: how often a batch is asked for before it is completed.
    """

    def __init__(self, vocabulary: Vocabulary | None = None, fault_rate: float = 0.0, seed: int = 0) -> None:
        self.script: list[Reply] = []
        self.bodies: list[bytes] = []
        self.arrivals: list[float] = []
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.tokens = 0
        self.fault_rate = fault_rate
        self.batches: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.polls_until_done = 2
        self.batch_line: Callable[[int, str], dict[str, Any] | None] = lambda number, name: None
        self._writer = TemplateProvider(vocabulary, 1) if vocabulary is not None else None
        self._draw = np.random.default_rng(seed)
        self._written = 0
        self._lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(_POLL_S,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        """Stops serving."""
        self.http.shutdown()
        self.http.server_close()

    def good(self, request: dict[str, Any]) -> Answer:
        """Returns an adherent text for each request."""
        return completion(json.dumps({"prompts": [{"id": r["id"], "text": self._text(r)} for r in asked(request)]}))

    def _text(self, request: dict[str, Any]) -> str:
        findings = request["findings"] if isinstance(request["findings"], list) else []
        with self._lock:
            self._written += 1
            number = self._written
        if self._writer is None:
            return f"Text {number} of {len(findings)} findings."
        wanted = tuple(
            RequestedFinding(f["name"], f.get("place"), f.get("side", "none"), f.get("severity")) for f in findings
        )
        return self._writer.text(PromptRequest(f"p{number}", wanted, request["view"]), number % 2)

    def _reply(self, request: dict[str, Any]) -> Answer:
        with self._lock:
            if self.script:
                reply = self.script.pop(0)
            elif self._draw.random() < self.fault_rate:
                name = list(FAULTS)[int(self._draw.integers(len(FAULTS)))]
                self.faults[name] += 1
                reply = FAULTS[name]
            else:
                reply = self.good
        return reply(request)

    def _charge(self, request: dict[str, Any], data: bytes) -> None:
        with self._lock:
            self.answered[hashlib.sha256(json.dumps(request["messages"]).encode()).hexdigest()] += 1
            self.tokens += json.loads(data)["usage"]["total_tokens"]

    def _batch(self, name: str) -> dict[str, Any]:
        """Returns a batch as it stands now; it is worked on by being looked at."""
        batch = self.batches[name]
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] > self.polls_until_done:
            good, bad = [], []
            for number, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
                call = json.loads(line)
                failed = self.batch_line(number, call["custom_id"])
                if failed is not None:
                    bad.append({"custom_id": call["custom_id"], **failed})
                    continue
                status, _, data = self._reply(call["body"])
                self._charge(call["body"], data)
                body = json.loads(data)
                good.append({"custom_id": call["custom_id"], "response": {"status_code": status, "body": body}})
            for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    batch[kind] = f"file-{kind}-{name}"
                    self.files[batch[kind]] = "\n".join(map(json.dumps, lines)).encode()
            batch["status"] = "completed"
        return {key: value for key, value in batch.items() if key != "polls"}

    def _get(self, path: str) -> Answer:
        parts = path.split("?")[0].removeprefix("/v1/").split("/")
        if parts[0] == "files":
            return 200, {}, self.files[parts[1]]
        if len(parts) == 2:
            return 200, {}, json.dumps(self._batch(parts[1])).encode()
        listed = [{k: v for k, v in b.items() if k != "polls"} for b in reversed(self.batches.values())]
        return 200, {}, json.dumps({"object": "list", "data": listed, "has_more": False}).encode()

    def _post(self, path: str, headers: Any, body: bytes) -> tuple[Answer, dict[str, Any] | None]:
        if path == "/v1/files":
            form = BytesParser().parsebytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
            part = next(p for p in form.get_payload() if "filename" in p["Content-Disposition"])  # type: ignore[union-attr]
            name = f"file-{len(self.files)}"
            self.files[name] = part.get_payload(decode=True)  # type: ignore[union-attr, assignment]
            made = {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "x", "purpose": "batch"}
            return (200, {}, json.dumps({**made, "status": "processed"}).encode()), None
        request = json.loads(body)
        if path == "/v1/batches":
            name = f"batch-{len(self.batches)}"
            fields = {
                "id": name,
                "object": "batch",
                "created_at": int(time.time()),
                "status": "in_progress",
                "polls": 0,
            }
            self.batches[name] = {**request, **fields}
            return (200, {}, json.dumps({k: v for k, v in self.batches[name].items() if k != "polls"}).encode()), None
        return self._reply(request), request

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(server._get(self.path), None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.bodies.append(str(self.headers).encode() + body)
                server.arrivals.append(time.monotonic())
                self._send(*server._post(self.path, self.headers, body))

            def _send(self, answer: Answer, request: dict[str, Any] | None) -> None:
                status, headers, data = answer
                if status == SILENCE:
                    time.sleep(2.0)
                    self.close_connection = True
                    return
                if status == RESET:
                    status, _, data = completion("a text that never arrives whole")
                    self._head(status, {}, len(data))
                    self.wfile.write(data[:40])
                    self.wfile.flush()
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                    return
                self._head(status, headers, len(data))
                try:
                    self.wfile.write(data)
                    self.wfile.flush()
                except OSError:
                    return
                if request is not None and status == 200:
                    server._charge(request, data)

            def _head(self, status: int, headers: dict[str, str], length: int) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def serving(vocabulary: Vocabulary | None = None, fault_rate: float = 0.0) -> Iterator[LLMServer]:
    """Yields a server for the length of a test."""
    server = LLMServer(vocabulary, fault_rate)
    yield server
    server.close()
