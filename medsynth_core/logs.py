"""Log lines as JSON, one object a line, for ``MEDSYNTH_LOG=json``."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import UTC, datetime

VARIABLE = "MEDSYNTH_LOG"
_IDS = ("flow_run_id", "flow_run_name", "task_run_id", "task_run_name")
"""Attributes of a record that say which run it is of, where somebody set them."""


class JsonLines(logging.Formatter):
    """Formats a record as ``time`` (UTC), ``level``, ``logger``, ``message``, ``host``, ``pid`` and the ids of its
    run."""

    def __init__(self, *_: object, **__: object) -> None:
        """Takes, and ignores, what a logging configuration gives a formatter: a line has one form."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "host": socket.gethostname(),
            "pid": record.process,
            **{name: str(found) for name in _IDS if (found := getattr(record, name, None)) is not None},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def as_json() -> bool:
    """Returns whether log lines are wanted as JSON."""
    return os.environ.get(VARIABLE) == "json"


def log_to_stderr() -> None:
    """Sends log lines to standard error, as text or as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json() else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
