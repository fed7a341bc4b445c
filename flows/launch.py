"""Starting a flow from the command line: checks before anything expensive, one line for what a user can mend.

``python -m flows.launch augment --workspace DIR`` runs it here. The flow's module, and with it torch and Prefect,
is imported once the input is known to be good.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from flows.prepare import prepare, trust
from medsynth_core.errors import MedsynthError
from medsynth_core.workspace.tree import Config

_FLOWS = ("augment", "train")
_PREFECT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "medsynth_core",
    "DO_NOT_TRACK": "1",
}
"""Settings that hold where the environment has none: a slow first start, no telemetry, the core's own warnings."""


def main() -> None:
    """Parses the command line, checks the inputs, runs the flow and exits with its code."""
    parser = argparse.ArgumentParser(description="Runs a flow in a workspace.")
    parser.add_argument("flow", choices=_FLOWS)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--preset")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--extend", action="store_true", help="add to the newest release")
    arguments = parser.parse_args()
    try:
        root, config = prepare(arguments.workspace, arguments.overrides, arguments.preset, arguments.extend)
        trust(root, config)
        sys.stderr.write("input checked; starting Prefect\n")
        set_prefect_defaults()
        flow = getattr(import_module(f"flows.{arguments.flow}"), arguments.flow)
        tag = flow(str(root))
    except MedsynthError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    if isinstance(tag, str):
        _say_where(root, config, tag)


def set_prefect_defaults() -> None:
    """Sets Prefect's settings where the environment has none; to be called before Prefect is imported."""
    os.environ.update({name: value for name, value in _PREFECT.items() if name not in os.environ})


def _say_where(root: Path, config: Config, tag: str) -> None:
    print(f"release  {tag} in {root} (store: {config.store.url})")
    print(f"look     {root / 'data' / 'report' / 'report.html'} and contact_sheet.png beside it")
    print(f'load     from medsynth_core.release import open_release; open_release("{root}", rev="{tag}").dataset()[0]')


if __name__ == "__main__":
    main()
