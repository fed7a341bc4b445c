"""Starting a Prefect worker on a machine whose last one may have died with its runs: ``python -m flows.worker``.

Prefect doesn't notice a run that was killed together with its server: it would stay *Running*, and no later run of its
deployment would start.
"""

from __future__ import annotations

import argparse
import os
import sys

from flows.launch import set_prefect_defaults
from tasks.stopping import settle_dead

_PATIENCE_S = 15.0
"""Server and worker start together after a power cut."""


def main() -> None:
    """Tells Prefect which runs of this machine are dead, and becomes `prefect worker start`."""
    parser = argparse.ArgumentParser(
        description="Starts a Prefect worker; runs that died are said to have crashed.",
        epilog="Further options are those of `prefect worker start`.",
    )
    parser.add_argument("--pool", default="medsynth", help="work pool")
    arguments, more = parser.parse_known_args()
    set_prefect_defaults()
    settle_dead(_PATIENCE_S)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", arguments.pool, *more]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
