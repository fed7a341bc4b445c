"""What is counted while work goes on, whoever does it and wherever: the work counts, the one who runs it collects."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Counted(NamedTuple):
    """So much more of something.

    Attributes:
        name: of what is counted.
        labels: what it is of, as (name, value).
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


_counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
_lock = threading.Lock()


def count(name: str, value: float = 1.0, **labels: str) -> None:
    """Counts something in this process."""
    with _lock:
        _counts[name, tuple(sorted(labels.items()))] += value  # type: ignore[assignment]


@contextmanager
def timed(name: str, **labels: str) -> Iterator[None]:
    """Counts the seconds that the block takes."""
    began = time.monotonic()
    try:
        yield
    finally:
        count(name, time.monotonic() - began, **labels)


def drain() -> list[Counted]:
    """Returns what this process counted since the last call."""
    with _lock:
        found = [Counted(name, labels, value) for (name, labels), value in _counts.items()]
        _counts.clear()
    return found
