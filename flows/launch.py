"""Starting a flow from the command line: checks before anything expensive, one line for what a user can mend.

``python -m flows.launch augment --workspace DIR`` runs it here. The flow's module, and with it torch and Prefect,
is imported once the input is known to be good.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

from medsynth_core.config import Config, dump_config, load_config
from medsynth_core.errors import InputError, MedsynthError
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import configure_store

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
    arguments = parser.parse_args()
    root = arguments.workspace.resolve()
    try:
        config = load_config(root / "params.yaml", arguments.overrides, arguments.preset)
        check(root, config)
        if arguments.overrides or arguments.preset:
            (root / "params.yaml").write_text(dump_config(config), "utf-8")
        sys.stderr.write("input checked; starting Prefect\n")
        os.environ.update({name: value for name, value in _PREFECT.items() if name not in os.environ})
        flow = getattr(import_module(f"flows.{arguments.flow}"), arguments.flow)
        _quiet_tracebacks()
        tag = flow(str(root), config)
    except MedsynthError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    if isinstance(tag, str):
        _say_where(root, config, tag)


def check(root: Path, config: Config) -> None:
    """Checks, in seconds, what would otherwise fail after hours.

    Raises:
        MedsynthError: the corpus, the store, the provider or the models can't be used.
    """
    from medsynth_core.corpus.readers import open_corpus
    from medsynth_core.workspace.stages import read_stages

    if not (root / ".dvc").is_dir():
        raise InputError(f"{root}: not a workspace; make one with `medsynth init DIR`")
    read_stages(root)
    open_corpus(config)
    if config.prompts.provider == "openai" and not os.environ.get("OPENAI_API_KEY"):
        raise InputError("prompts.provider is openai, but OPENAI_API_KEY is not set; export it")
    if config.models.path is not None:
        from medsynth_core.config import Paths
        from medsynth_core.synthesis.synthesiser import model_digests

        model_digests(config, Paths(root))
    if config.device == "cuda":
        from medsynth_core.models.artifact import pick_device

        pick_device(config.device)
    open_store(config.store, root).check_writable()
    configure_store(root, config)


def _quiet_tracebacks() -> None:
    """Prefect logs a failed run with its traceback; of our own errors the message says all."""

    def without_traceback(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MedsynthError):
            record.exc_info, record.msg, record.args = None, str(error), ()
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(without_traceback)


def _say_where(root: Path, config: Config, tag: str) -> None:
    print(f"release  {tag} in {root} (store: {config.store.url})")
    print(f"look     {root / 'data' / 'report' / 'report.html'} and contact_sheet.png beside it")
    print(f'load     from medsynth_core.release import open_release; open_release("{root}", rev="{tag}").dataset()[0]')


if __name__ == "__main__":
    main()
