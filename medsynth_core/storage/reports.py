"""The pages of releases, beside their records in the store: ``reports/<tag>/report.html`` and ``metrics.json``.

A page is made after the dataset is hashed and before its version is claimed, so it is no file of the release.
"""

from __future__ import annotations

import json
from typing import Any

from medsynth_core.errors import CorruptObjectError
from medsynth_core.storage.store import ObjectStore

PAGE = "report.html"
METRICS = "metrics.json"


def report_key(tag: str, name: str = PAGE) -> str:
    """Returns where a release's page, or what it shows in figures, lies in the store."""
    return f"reports/{tag}/{name}"


def put_report(store: ObjectStore, tag: str, page: bytes, metrics: bytes) -> None:
    """Writes a release's page and its figures; a newer page of the same release takes the older one's place."""
    store.put(report_key(tag, METRICS), metrics)
    store.put(report_key(tag), page)


def read_metrics(store: ObjectStore, tag: str) -> dict[str, Any] | None:
    """Returns the figures of a release's page, or None when none was recorded.

    Raises:
        CorruptObjectError: they can't be read.
    """
    key = report_key(tag, METRICS)
    if store.size(key) is None:
        return None
    try:
        figures: dict[str, Any] = json.loads(store.get(key))
    except ValueError as error:
        raise CorruptObjectError(
            f"{store.url}: {key} is no JSON ({error}); delete it, or record the release again"
        ) from error
    return figures
