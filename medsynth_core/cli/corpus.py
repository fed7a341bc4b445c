"""What ``medsynth init --corpus`` says of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from medsynth_core.corpus.readers import recognised


def corpus_settings(named: str) -> list[str]:
    """Prints what a place seems to be, what is there and what isn't, and returns the overrides that read it.

    Raises:
        InputError: it is nothing that a reader knows.
        StoreError, TransientError: the bucket can't be read.
    """
    where = named if "://" in named else str(Path(named).expanduser().resolve())
    seen = recognised(where)
    print(f"{where}: {seen.what}")
    for line in seen.found:
        print(f"  found: {line}")
    for line in seen.missing:
        print(f"  missing: {line}")
    overrides = [f"corpus.{name}={json.dumps(value)}" for name, value in seen.settings.items()]
    for override in overrides:
        print(f"  {override}")
    return overrides
