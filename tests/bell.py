"""What rings when an automation of infra/automations.yaml does: a webhook that hears what is sent to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

from benchmarks.server import ask_prefect

HEARD_WITHIN_S = 60


class Bell:
    """Hears what is sent to it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        bell = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                bell.heard.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def rings(self, *words: str, within_s: float = HEARD_WITHIN_S, times: int = 1) -> bool:
        """Returns whether so many texts with all words arrive in time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if sum(all(word in text for word in words) for text in self.heard) >= times:
                return True
            time.sleep(0.2)
        return False


def be_quick_to_miss(environment: Mapping[str, str]) -> None:
    """Makes the automation medsynth-zombie wait for a beat no longer than ten seconds."""
    automations = ask_prefect(environment, "/automations/filter", {})
    found = next(each for each in automations if each["name"] == "medsynth-zombie")
    trigger = found["trigger"] | {"within": 10}
    shorter = {key: found[key] for key in ("name", "description", "enabled", "actions")} | {"trigger": trigger}
    ask_prefect(environment, f"/automations/{found['id']}", shorter, "PUT")
