"""What every flow does first: read the parameters and check, in seconds, what would otherwise fail after hours."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from medsynth_core.config import Paths
from medsynth_core.errors import ConfigError, InputError, MedsynthError
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.store import open_store
from medsynth_core.workspace.init import configure_store
from medsynth_core.workspace.params import load_config, write_config
from medsynth_core.workspace.record import newest_release
from medsynth_core.workspace.tree import Config


def prepare(
    workspace: str | Path, overrides: Sequence[str] = (), preset: str | None = None, extend: bool = False
) -> tuple[Path, Config]:
    """Returns the workspace's folder and its configuration, checked; what was overridden is kept in params.yaml.

    Args:
        extend: make the newest release of the workspace, if there is one, the parent of the next.

    Raises:
        MedsynthError: the parameters, the corpus, the store, the provider, the models or an extractor can't be used.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    root = Path(workspace).expanduser().resolve()
    config = load_config(root / "params.yaml", overrides, preset)
    if extend:
        overrides = [*overrides, f"release.parent={newest_release(root, config.release.name) or 'null'}"]
        config = load_config(root / "params.yaml", overrides, preset)
    check(root, config)
    if overrides or preset:
        write_config(root / "params.yaml", config)
    return root, config


def check(root: Path, config: Config) -> None:
    """Checks that a run can start and points DVC to the store.

    Raises:
        MedsynthError: the corpus, the store, the provider, the models or an extractor can't be used.
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
        from medsynth_core.models.artifact import model_digests

        model_digests(config, Paths(root))
    if config.device == "cuda":
        from medsynth_core.models.artifact import pick_device

        pick_device(config.device)
    for name in config.evaluation.extractors:
        if name.startswith("inception"):
            from medsynth_core.evaluation.extractors import find_inception

            find_inception(name.partition(":")[2], Paths(root))
    for name in {*config.evaluation.extractors, *config.evaluation.judges}:
        if name.startswith("torchxrayvision:"):
            from medsynth_core.evaluation.extractors import load_torchxrayvision

            load_torchxrayvision(name.partition(":")[2], Paths(root))
    if config.models.path is None and config.corpus.judge_fraction == 0:
        raise ConfigError(
            "corpus.judge_fraction is 0, so the labelling judge has no patients to learn from; raise it, or set "
            "models.path to trained models"
        )
    store = open_store(config.store, root)
    store.check_writable()
    if config.release.parent is not None:
        read_entry(store, config.release.parent)
    configure_store(root, config)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failed run with its traceback; of our own errors the message says all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MedsynthError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True
