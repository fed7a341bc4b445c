"""What would fail after hours, looked at in seconds: by a flow for all its stages, by a stage's command for its own.

A check belongs to a parameter and runs for the stages that read it. Each failure is one line that names the setting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import yaml

from medsynth_core.config.entries import check_entry
from medsynth_core.errors import ConfigError, InputError
from medsynth_core.evaluation.settings import EXTRACTORS, JUDGES
from medsynth_core.models.pretrained import check_pretrained
from medsynth_core.models.settings import grid_problem
from medsynth_core.privacy.settings import ATTACKERS
from medsynth_core.prompts.settings import PROVIDERS
from medsynth_core.storage.parent import open_parent
from medsynth_core.storage.store import open_store
from medsynth_core.workspace import stages
from medsynth_core.workspace.pipeline import render_pipeline
from medsynth_core.workspace.tree import Config

_RENDER = "write it anew: python -m medsynth_core.workspace.pipeline > dvc.yaml"
_Check = Callable[[Config, Path], None]
_RUNNER_PACKAGES = {
    "ray": ("ray", "prefect_ray"),
    "dask": ("distributed", "prefect_dask"),
    "kubernetes": ("kubernetes",),
}
_BY_JOB = {"kubernetes": "infra/kubernetes/base/work.yaml", "slurm": "infra/slurm/work.sbatch"}
"""What starts the workers, as an example has it."""
_PNG_BYTES_A_PIXEL = 0.25
"""Half of what a radiograph takes."""
_GB = 1e9


def check(config: Config, root: Path, names: Iterable[str] | None = None) -> None:
    """Checks that stages can start.

    Args:
        names: of the stages; None: all that a flow runs, which needs a repository and a runner besides.

    Raises:
        MedsynthError: a setting names what isn't there or can't be used.
    """
    if names is None:
        if not (root / ".dvc").is_dir():
            raise InputError(f"{root}: not a workspace; make one with `medsynth init DIR`")
        rows = [stage for stage in stages.STAGES if not stage.trains or config.models.path is None]
        _check_runner(config, root)
    else:
        rows = [stages.find_stage(name) for name in names]
    _check_pipeline(root, None if names is None else {row.name for row in rows})
    read = set(chain.from_iterable((*row.params.places().values(), *row.paths) for row in rows))
    if config.models.path is not None and any(row.models for row in rows):
        _check_given_models(config, root)
    for path, each in _CHECKS:
        if any(path == place or path.startswith(f"{place}.") for place in read):
            each(config, root)
    check_space(config, root, {row.name for row in rows})


def _check_pipeline(root: Path, names: Collection[str] | None) -> None:
    """Raises InputError where dvc.yaml has a stage otherwise than this version: what DVC records and repeats would be
    something else than what runs. A flow needs every stage there, a stage's command none; stages of the user's own
    beside them, and what is added to ours (``frozen``, ``always_changed``), are the user's affair.
    """
    path = root / "dvc.yaml"
    if not path.is_file():
        return
    try:
        theirs = yaml.safe_load(path.read_text("utf-8"))["stages"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no stages can be read ({' '.join(str(error).split())[:200]}); {_RENDER}") from error
    for name, ours in yaml.safe_load(render_pipeline())["stages"].items():
        if names is not None and (name not in names or name not in theirs):
            continue
        entry = theirs.get(name) or {}
        if any(entry.get(key) != value for key, value in ours.items() if key != "desc"):
            raise InputError(f"{path}: stage {name!r} isn't as this version of medsynth has it; {_RENDER}")


def _check_runner(config: Config, root: Path) -> None:
    missing = [name for name in _RUNNER_PACKAGES.get(config.runner.kind, ()) if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"runner.kind {config.runner.kind} needs the package {missing[-1].replace('_', '-')}; install it, or set "
            f"runner.kind to threads or processes"
        )
    if (example := _BY_JOB.get(config.runner.kind)) is not None:
        runner = config.runner
        if runner.job is None or not (root / Path(runner.job).expanduser()).is_file():
            raise ConfigError(
                f"runner.job={runner.job}: not a file; {runner.kind} starts its workers by one such as {example}"
            )
        if runner.workers is None:
            raise ConfigError(f"runner.workers: say how many workers {runner.kind} is to start")


def _check_corpus(config: Config, root: Path) -> None:
    """Opens what will be read, once: of a large tree that takes a while. One that isn't there yet is opened when its
    space is looked at, one that is fresh isn't read."""
    from medsynth_core.corpus.readers import open_corpus

    if stages.workspace_paths(root)["corpus"].exists() and not stages.is_fresh("corpus", config, root):
        open_corpus(config.corpus, config.seed)


def _check_provider(config: Config, root: Path) -> None:
    PROVIDERS.ask(config.prompts.provider, "check", config.prompts.settings)


def _check_given_models(config: Config, root: Path) -> None:
    """What draws must be there, and what the enabled filters compare with."""
    from medsynth_core.judging.calibrated import bounds_of, judge_digest
    from medsynth_core.models.artifact import model_digests

    paths = stages.workspace_paths(root, config)
    model_digests(paths)
    judge_digest(paths["calibrate"], paths.digests)
    bounds_of(paths["calibrate"], config.quality)


def _check_device(config: Config, root: Path) -> None:
    if config.device == "cuda":
        from medsynth_core.models.artifact import pick_device

        pick_device(config.device)


def _check_judged_patients(config: Config, root: Path) -> None:
    if config.corpus.judge_fraction == 0:
        raise ConfigError(
            "corpus.judge_fraction is 0, so the labelling judge has no patients to learn from; raise it, or set "
            "models.path to trained models"
        )


def _pretrained(setting: str, name: Callable[[Config], str | None]) -> _Check:
    def check_name(config: Config, root: Path) -> None:
        if (found := name(config)) is not None:
            check_pretrained(setting, found)

    return check_name


def _check_guides(config: Config, root: Path) -> None:
    settings = config.models.vqgan
    for name in ("clinical", "perceptual"):
        model = getattr(settings, f"{name}_model")
        if model is not None and getattr(settings, f"{name}_weight") > 0:
            check_pretrained(f"models.vqgan.{name}_model", model, sees=True)


def _check_base(config: Config, root: Path) -> None:
    base = config.models.vqgan.base
    if base is None:
        return
    from medsynth_core.models.tokenizers.pretrained import SETTING, find_base

    whence = f"{SETTING} {base!r}"
    problem = grid_problem(config.corpus.image_size, find_base(base).downsampling, config.models.alignment, whence)
    if problem is not None:
        raise ConfigError(problem)


def _check_networks(config: Config, root: Path) -> None:
    paths = stages.workspace_paths(root, config)
    for networks, entries in ((EXTRACTORS, config.evaluation.extractors), (JUDGES, config.evaluation.judges)):
        for entry in entries:
            check_entry(networks, entry, paths)


def _check_attackers(config: Config, root: Path) -> None:
    for entry in config.privacy.attackers:
        check_entry(ATTACKERS, entry, stages.workspace_paths(root, config))


def _check_store(config: Config, root: Path) -> None:
    open_store(config.store, root).check_writable()


def _check_parent(config: Config, root: Path) -> None:
    if config.release.parent is not None:
        open_parent(open_store(config.store, root), config.release.parent)


_CHECKS: tuple[tuple[str, _Check], ...] = (
    ("corpus.kind", _check_corpus),
    ("prompts.provider", _check_provider),
    ("device", _check_device),
    ("models.judge", _check_judged_patients),
    ("models.vqgan", _check_guides),
    ("models.vqgan", _check_base),
    ("models.alignment", _pretrained("models.alignment.text_model", lambda c: c.models.alignment.text_model)),
    ("models.llm", _pretrained("models.llm.base", lambda c: c.models.llm.base)),
    ("evaluation.extractors", _check_networks),
    ("privacy.attackers", _check_attackers),
    ("store", _check_store),
    ("release.parent", _check_parent),
)
"""By the parameter whose readers need it; cheap ones first."""


def check_space(config: Config, root: Path, names: set[str]) -> None:
    """Raises InputError where a disk has less room than corpus and store will take at the very least.

    A corpus that is there takes no more; neither does a store with runs in it, since this may be the end of one.
    """
    pixels, needs = config.corpus.image_size**2, list[tuple[str, Path, float, str]]()
    corpus = stages.workspace_paths(root)["corpus"]
    if "corpus" in names and not corpus.exists():
        from medsynth_core.corpus.readers import open_corpus

        n = open_corpus(config.corpus, config.seed).total
        needs.append(("the corpus", corpus, n * pixels, "read fewer by corpus.max_studies"))
    store = open_store(config.store, root) if "synthesis" in names else None
    folder = store.folder if store is not None else None
    if folder is not None and not (folder / "runs").exists():
        n = config.prompts.n * config.synthesis.samples_per_prompt
        needs.append(("the store", folder, n * pixels * _PNG_BYTES_A_PIXEL, "set store.url to another disk"))
    wanted: dict[int, list[tuple[str, Path, float, str]]] = {}
    for need in needs:
        there = next(folder for folder in (need[1], *need[1].parents) if folder.exists())
        wanted.setdefault(there.stat().st_dev, []).append((need[0], there, *need[2:]))
    for on_disk in wanted.values():
        least, free = sum(need[2] for need in on_disk), shutil.disk_usage(on_disk[0][1]).free
        if free < least:
            raise InputError(
                f"{on_disk[0][1]}: {free / _GB:.2f} GB are free, but at the very least {least / _GB:.2f} GB are needed "
                f"for {' and '.join(need[0] for need in on_disk)}; make room, or {on_disk[-1][3]}"
            )
