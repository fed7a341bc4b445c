"""Starting a flow from the command line: checks before anything expensive, one line for what a user can mend.

``python -m flows.launch augment --workspace DIR`` runs it here. The flow's module, and with it torch and Prefect,
is imported once the input is known to be good.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.prepare import hand_over, prepare
from medsynth_core.errors import MedsynthError
from medsynth_core.logs import as_json
from medsynth_core.storage.atomic import full_disk
from medsynth_core.workspace.lock import at_work
from medsynth_core.workspace.tree import Config
from tasks.stopping import exits, settle, settle_dead, stoppable, stopped, tagged

_FLOWS = ("augment", "train")
_AS_JSON = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
    "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": "medsynth_core.logs.JsonLines",
    "PREFECT_LOGGING_COLORS": "false",
}
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
    parser.add_argument("--resume", action="store_true", help="go on from what the last trainings left")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, exits)
    try:
        with stoppable(), full_disk():
            _run(arguments)
    except BaseException as error:
        if (number := stopped(error)) is None:
            if not isinstance(error, MedsynthError):
                raise
            sys.stderr.write(f"error: {error}\n")
            sys.exit(error.exit_code)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        why = f"stopped by {signal.Signals(number).name}"
        settle(why)
        sys.stderr.write(f"{why}; what is made is kept: run again, and it goes on\n")
        sys.exit(128 + number)


def _run(arguments: argparse.Namespace) -> None:
    root, options = arguments.workspace.expanduser().resolve(), (arguments.preset, arguments.extend)
    with at_work(root):
        prepared = prepare(root, arguments.overrides, *options)
        hand_over(prepared, arguments.overrides, *options)
        sys.stderr.write("input checked; starting Prefect\n")
        set_prefect_defaults()
        _start_prefect()
        flow = getattr(import_module(f"flows.{arguments.flow}"), arguments.flow)
        given: dict[str, Any] = {"preset": arguments.preset, "overrides": arguments.overrides}
        settle_dead()
        with tagged():
            given |= {name: True for name in ("extend", "resume") if getattr(arguments, name)}
            tag = flow(str(root), **given)
    if isinstance(tag, str):
        _say_where(root, prepared.config, tag)


def set_prefect_defaults() -> None:
    """Sets Prefect's settings where the environment has none; to be called before Prefect is imported."""
    wanted = _PREFECT | (_AS_JSON if as_json() else {})
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})


def _start_prefect() -> None:
    """Starts the server of Prefect's own, where the environment names none, so that Ctrl-C doesn't reach it: it has to
    be told how the run ended. A thread that SIGINT is kept from does it, and a process inherits that."""

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        from prefect.client.orchestration import get_client

        get_client(sync_client=True)

    ThreadPoolExecutor(1).submit(start).result()


def _say_where(root: Path, config: Config, tag: str) -> None:
    print(f"release  {tag} in {root} (store: {config.store.url})")
    print(f"look     {root / 'data' / 'report' / 'report.html'} and contact_sheet.png beside it")
    print(f'load     from medsynth_core.release import open_release; open_release("{root}", rev="{tag}").dataset()[0]')


if __name__ == "__main__":
    main()
