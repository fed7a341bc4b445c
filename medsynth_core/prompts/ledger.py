"""What was asked and paid, kept so that nothing is paid twice: an SQLite file that survives a kill."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth_core.errors import StateError
from medsynth_core.prompts.records import Draft, Reply, Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tries (
    id INTEGER PRIMARY KEY, plan TEXT NOT NULL, state TEXT NOT NULL, tokens INTEGER NOT NULL, usd REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS tries_of_plan ON tries (plan);
CREATE TABLE IF NOT EXISTS replies (id INTEGER PRIMARY KEY, raw TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS drafts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL, text TEXT, problem TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, reply INTEGER NOT NULL REFERENCES replies,
    UNIQUE (key, attempt)
);
CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, batch TEXT, calls TEXT NOT NULL);
"""
_KEYS_A_QUERY = 500


@dataclass(frozen=True)
class KeptDraft:
    """A draft of an earlier run or round, in the order in which drafts came."""

    order: int
    key: str
    attempt: int
    draft: Draft


@dataclass(frozen=True)
class KeptBatch:
    """A batch that was handed in and isn't settled; ``batch`` is the server's name for it, None if not known yet."""

    name: str
    batch: str | None
    calls: dict[str, Any]


class Ledger:
    """Drafts by the content of what was asked, tries with what they cost, and batches that are out.

    Every write is durable when it returns. One process uses a ledger at a time; its threads may share it.
    """

    def __init__(self, path: Path | None) -> None:
        """Opens or makes the ledger; ``None`` keeps it in memory.

        Raises:
            StateError: the file is no ledger, or another process uses it.
        """
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(str(path or ":memory:"), isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.executescript(_SCHEMA)
            self._base.execute("BEGIN EXCLUSIVE")
            self._base.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            what = "in use by another run; wait for it" if "locked" in str(error) else "no prompt ledger; move it away"
            raise StateError(f"{path}: {what} ({error})") from error

    def close(self) -> None:
        """Closes the file."""
        self._base.close()

    def drafts(self, keys: Sequence[str]) -> list[KeptDraft]:
        """Returns the kept drafts of the given keys, in the order in which they came."""
        found: list[KeptDraft] = []
        with self._lock:
            for start in range(0, len(keys), _KEYS_A_QUERY):
                part = keys[start : start + _KEYS_A_QUERY]
                rows = self._base.execute(
                    "SELECT id, key, attempt, text, problem, input_tokens, output_tokens FROM drafts "
                    f"WHERE key IN ({', '.join('?' * len(part))})",
                    part,
                )
                found += [
                    KeptDraft(order, key, attempt, Draft(text, problem, Usage(n_in, n_out)))
                    for order, key, attempt, text, problem, n_in, n_out in rows
                ]
        return sorted(found, key=lambda kept: kept.order)

    def keep(self, reply: Reply, settle: tuple[int, int, float] | None = None) -> None:
        """Keeps a reply's drafts; a draft that is already there stays.

        Args:
            reply: as the provider read it.
            settle: try, tokens and price of the call that brought it, noted in the same instant.
        """
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                row = self._base.execute("INSERT INTO replies (raw) VALUES (?)", (reply.raw,))
                self._base.executemany(
                    "INSERT OR IGNORE INTO drafts (key, attempt, text, problem, input_tokens, output_tokens, reply) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            a.key,
                            a.attempt,
                            d.text,
                            d.problem,
                            d.usage.input_tokens,
                            d.usage.output_tokens,
                            row.lastrowid,
                        )
                        for a, d in zip(reply.assignments, reply.drafts, strict=True)
                    ],
                )
                if settle is not None:
                    self._settle(*settle)
                self._base.execute("COMMIT")
            except BaseException:
                self._base.execute("ROLLBACK")
                raise

    def spent(self, plan: str) -> tuple[int, float]:
        """Returns tokens and dollars of a plan: what was paid, and the bound of what may have been."""
        with self._lock:
            row = self._base.execute("SELECT SUM(tokens), SUM(usd) FROM tries WHERE plan = ?", (plan,)).fetchone()
        return int(row[0] or 0), float(row[1] or 0.0)

    def unsettled(self, plan: str) -> int:
        """Returns how many tries were sent and brought no answer: they may have been paid."""
        with self._lock:
            query = "SELECT COUNT(*) FROM tries WHERE plan = ? AND state = 'sent'"
            return int(self._base.execute(query, (plan,)).fetchone()[0])

    def open_try(self, plan: str, tokens: int, usd: float) -> int:
        """Notes that a call is about to be sent that may use so much, and returns its number."""
        with self._lock:
            row = self._base.execute(
                "INSERT INTO tries (plan, state, tokens, usd) VALUES (?, 'sent', ?, ?)", (plan, tokens, usd)
            )
            assert row.lastrowid is not None
            return row.lastrowid

    def drop_try(self, number: int) -> None:
        """Forgets a try that the server refused: it costs nothing."""
        with self._lock:
            self._base.execute("DELETE FROM tries WHERE id = ?", (number,))

    def _settle(self, number: int, tokens: int, usd: float) -> None:
        self._base.execute("UPDATE tries SET state = 'paid', tokens = ?, usd = ? WHERE id = ?", (tokens, usd, number))

    def add_batch(self, name: str, calls: dict[str, Any]) -> None:
        """Notes a batch that is about to be handed in, with what each of its calls is for."""
        with self._lock:
            self._base.execute("INSERT INTO batches VALUES (?, NULL, ?)", (name, json.dumps(calls)))

    def name_batch(self, name: str, batch: str) -> None:
        """Notes the server's name of a batch."""
        with self._lock:
            self._base.execute("UPDATE batches SET batch = ? WHERE name = ?", (batch, name))

    def drop_batch(self, name: str) -> None:
        """Forgets a batch that is settled."""
        with self._lock:
            self._base.execute("DELETE FROM batches WHERE name = ?", (name,))

    def batches(self) -> list[KeptBatch]:
        """Returns the batches that are out, of any plan."""
        with self._lock:
            rows = self._base.execute("SELECT name, batch, calls FROM batches ORDER BY rowid")
            return [KeptBatch(name, batch, json.loads(calls)) for name, batch, calls in rows]
