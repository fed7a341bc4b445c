"""The stages, a row each: from them come the commands, the Prefect tasks, dvc.yaml, the places of outputs, and what is
up to date. To add a stage is to add a row."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medsynth_core.config import Params, Paths
from medsynth_core.corpus.settings import CorpusParams
from medsynth_core.deduplicate.settings import DeduplicateParams
from medsynth_core.errors import InputError
from medsynth_core.evaluation.settings import EvaluationParams, ReportParams, UtilityParams
from medsynth_core.fidelity.settings import FidelityParams
from medsynth_core.hashing import sha256_json
from medsynth_core.privacy.settings import PrivacyParams
from medsynth_core.progress import Progress
from medsynth_core.prompts.settings import PromptsParams
from medsynth_core.release.settings import ReleaseParams
from medsynth_core.storage.atomic import full_disk, write_bytes_atomically
from medsynth_core.storage.store import ObjectStore, open_store
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.training.settings import (
    AlignmentParams,
    CalibrateParams,
    ClassifierParams,
    JudgeParams,
    LLMParams,
    VQGANParams,
)
from medsynth_core.vocabulary.settings import VocabularyParams
from medsynth_core.workspace.tree import Config


@dataclass(frozen=True)
class Stage:
    """One stage: a function of parameters and places.

    Attributes:
        version: raised when the same inputs would give another output.
        function: ``module:name``, imported when the stage runs; called with its parameters, the places, the store if it
            has one, progress, and its ``key`` if it trains.
        help: what it does, an imperative clause.
        params: what it reads of params.yaml.
        deps: stages whose outputs it reads.
        out: its main output, relative to the workspace.
        metrics: files of figures.
        plots: files of points, each with DVC's settings of its plot.
        store: whether it reads or writes the store; then another store makes its output stale.
        updates: whether it can bring its output up to date with what has come to its source, whose tables then decide
            whether it is.
        trains: whether it is a training, whose key names its checkpoints.
        models: whether it uses trained models, be they the workspace's own or given by ``models.path``.
        calls: whether it asks servers in other ways than through its store; they may fail for a while.
        command: of the command line.
    """

    name: str
    version: int
    function: str
    help: str
    params: type[Params]
    deps: tuple[str, ...] = ()
    out: str = ""
    metrics: tuple[str, ...] = ()
    plots: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    store: bool = False
    updates: bool = False
    trains: bool = False
    models: bool = False
    calls: bool = False
    command: str = ""

    @property
    def given(self) -> bool:
        """Whether its output is of a model, for which ``models.path`` may stand in."""
        return self.out.startswith("models/")

    @property
    def paths(self) -> tuple[str, ...]:
        """Dotted paths of the parameters that decide its output; ``store`` does, since it decides where that lies."""
        return (
            *self.params.paths(),
            *(["models.path"] if self.models and "models.path" not in self.params.paths() else ()),
            *(["store"] if self.store else ()),
        )


def _training(model: str, help_: str, version: int, params: type[Params], deps: tuple[str, ...], y: str) -> Stage:
    return Stage(
        model,
        version,
        f"medsynth_core.training.{model}:run",
        help_,
        params,
        deps=deps,
        out=f"models/{model}",
        metrics=(f"metrics/{model}.json",),
        plots={f"metrics/{model}.csv": {"x": "step", "y": y}},
        trains=True,
        command=f"train-{model}",
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        "corpus",
        8,
        "medsynth_core.corpus.stage:run",
        "normalise the corpus: any source to a study table and grayscale images",
        CorpusParams,
        out="data/corpus",
        updates=True,
        command="corpus",
    ),
    Stage(
        "vocabulary",
        7,
        "medsynth_core.vocabulary.stage:run",
        "mine anatomy and pathology terms with counts, and labels a study",
        VocabularyParams,
        deps=("corpus",),
        out="data/vocabulary",
        command="vocabulary",
    ),
    Stage(
        "prompts",
        6,
        "medsynth_core.prompts.stage:run",
        "write anatomy-pathology prompts",
        PromptsParams,
        deps=("vocabulary",),
        out="data/prompts",
        calls=True,
        command="prompts",
    ),
    _training(
        "classifier",
        "train the finding classifier that guides the image tokeniser",
        2,
        ClassifierParams,
        ("corpus", "vocabulary"),
        "held_out",
    ),
    _training(
        "judge",
        "train the labelling judge, on patients that no other model learns from",
        3,
        JudgeParams,
        ("corpus", "vocabulary"),
        "held_out",
    ),
    _training(
        "vqgan",
        "train the image tokeniser",
        6,
        VQGANParams,
        ("corpus", "classifier"),
        "reconstruction",
    ),
    _training(
        "alignment",
        "train word-patch alignment and build the visual codebook",
        5,
        AlignmentParams,
        ("corpus", "vocabulary", "vqgan"),
        "held_out",
    ),
    _training(
        "llm",
        "train the language model over text, keypatch and image tokens",
        9,
        LLMParams,
        ("corpus", "vocabulary", "vqgan", "alignment"),
        "image",
    ),
    Stage(
        "calibrate",
        2,
        "medsynth_core.training.calibrate:run",
        "fit the filters and find out what real held-out images score",
        CalibrateParams,
        deps=("corpus", "vocabulary", "judge", "vqgan", "alignment"),
        out="models/filters",
        command="calibrate",
    ),
    Stage(
        "synthesis",
        7,
        "medsynth_core.synthesis.stage:run",
        "make the missing shards, straight to the store",
        SynthesisParams,
        deps=("vocabulary", "prompts", "vqgan", "alignment", "llm", "calibrate"),
        out="data/synthesis",
        store=True,
        models=True,
        command="synthesis",
    ),
    Stage(
        "deduplicate",
        1,
        "medsynth_core.deduplicate.stage:run",
        "reject near-duplicates across shards",
        DeduplicateParams,
        deps=("synthesis",),
        out="data/deduplicate",
        store=True,
        command="deduplicate",
    ),
    Stage(
        "privacy",
        4,
        "medsynth_core.privacy.stage:run",
        "measure what the images give away of the training images",
        PrivacyParams,
        deps=("corpus", "vocabulary", "vqgan", "alignment", "llm", "calibrate", "deduplicate"),
        out="data/privacy",
        metrics=("metrics/privacy.json",),
        plots={"metrics/privacy.csv": {"template": "linear", "x": "distance", "y": "share"}},
        store=True,
        models=True,
        command="privacy",
    ),
    Stage(
        "fidelity",
        1,
        "medsynth_core.fidelity.stage:run",
        "measure how the images differ from real films, and whose fault it is",
        FidelityParams,
        deps=("corpus", "vqgan", "alignment", "deduplicate"),
        out="data/fidelity",
        metrics=("metrics/fidelity.json",),
        plots={"metrics/fidelity.csv": {"template": "linear", "x": "frequency", "y": "log_power"}},
        store=True,
        models=True,
        command="fidelity",
    ),
    Stage(
        "release",
        6,
        "medsynth_core.release.stage:run",
        "publish the dataset to the store: release.json, its description, the directory object; and write dataset.dvc",
        ReleaseParams,
        deps=("corpus", "prompts", "deduplicate", "privacy", "fidelity"),
        out="data/release",
        store=True,
        command="release",
    ),
    Stage(
        "evaluation",
        5,
        "medsynth_core.evaluation.stage:run",
        "compare the release with held-out real images",
        EvaluationParams,
        deps=("corpus", "vocabulary", "classifier", "calibrate", "release"),
        out="data/evaluation",
        metrics=("metrics/evaluation.json",),
        plots={"metrics/evaluation.csv": {"template": "scatter", "x": "x", "y": "y"}},
        calls=True,
        models=True,
        command="evaluate",
    ),
    Stage(
        "utility",
        3,
        "medsynth_core.evaluation.utility:run",
        "train classifiers on real and on the release's images (utility.shares), judge them on real ones",
        UtilityParams,
        deps=("corpus", "vocabulary", "release"),
        out="data/utility",
        metrics=("metrics/utility.json",),
        calls=True,
        command="utility",
    ),
    Stage(
        "report",
        8,
        "medsynth_core.evaluation.report:run",
        "draw the contact sheet and the HTML page",
        ReportParams,
        deps=("corpus", "vocabulary", "alignment", "llm", "calibrate", "release", "evaluation", "utility"),
        out="data/report",
        metrics=("metrics/report.json",),
        plots={"metrics/distribution.csv": {"template": "bar_horizontal", "x": "images", "y": "label"}},
        store=True,
        models=True,
        command="report",
    ),
)
"""In the order in which they run."""


def find_stage(name: str) -> Stage:
    """Returns the row of a stage."""
    return next(stage for stage in STAGES if stage.name == name)


def workspace_paths(root: Path, config: Config | None = None) -> Paths:
    """Returns where the stages of a workspace write.

    Args:
        config: its parameters; None: models lie in the workspace.
    """
    given = config.models.path if config is not None else None
    places = {stage.name: root / stage.out for stage in STAGES}
    if given is not None:
        folder = (root / Path(given).expanduser()).resolve()
        places |= {stage.name: folder / Path(stage.out).name for stage in STAGES if stage.given}
    return Paths(root, places)


def perform(
    name: str, config: Config, root: Path, progress: Progress, store: ObjectStore | None = None, resume: bool = False
) -> Any:
    """Runs a stage in a workspace and returns its report; what was up to date before isn't looked at.

    Args:
        store: what ``store`` names when None.
        resume: a training goes on from what the last one of the model left, though settings or data have changed; a
            stage that can brings its output up to date.

    Raises:
        MedsynthError: as the stage's ``run`` says.
    """
    stage, paths = find_stage(name), _paths(name, config, root)
    module, _, function = stage.function.partition(":")
    stores = (store or open_store(config.store, root),) if stage.store else ()
    further: dict[str, Any] = {"key": freshness_key(stage, config, paths)} if stage.trains else {}
    if resume and stage.trains:
        _go_on(name, config, paths, further["key"])
    if resume and stage.updates:
        further["update"] = True
    with full_disk(root / stage.out):
        return getattr(import_module(module), function)(stage.params.of(config), paths, *stores, progress, **further)


def _go_on(name: str, config: Config, paths: Paths, key: str) -> None:
    """Makes what the last training of a model left the beginning of the next."""
    from medsynth_core.training.checkpoint import adopt
    from medsynth_core.training.finish import checkpoint_path

    adopt(checkpoint_path(paths, name), key, paths[name], getattr(config.models, name).train.steps)


def run_stage(name: str, config: Config, root: Path, progress: Progress, resume: bool = False) -> dict[str, Any]:
    """Runs a stage in a workspace, as ``perform`` does, notes it as up to date and returns its report as plain values.

    Under ``accelerate launch`` every process runs it, and the first one notes.

    Raises:
        MedsynthError: as the stage's ``run`` says.
    """
    report = plain(perform(name, config, root, progress, resume=resume))
    if os.environ.get("RANK", "0") == "0":
        mark_fresh(name, config, root, report)
    return report


def plain(report: Any) -> dict[str, Any]:
    """Returns the fields of a stage's report, as JSON has them."""

    def value(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else item

    return {field.name: value(getattr(report, field.name)) for field in fields(report)}


def is_fresh(name: str, config: Config, root: Path) -> bool:
    """Returns whether the stage's outputs are those of its present inputs, parameters and version."""
    stage, paths = find_stage(name), _paths(name, config, root)
    try:
        mark = json.loads(_mark(root, name).read_text("utf-8"))
        return bool(mark["key"] == freshness_key(stage, config, paths) and mark["outs"] == _outputs(stage, paths))
    except (FileNotFoundError, InputError):
        return False


def mark_fresh(name: str, config: Config, root: Path, report: Mapping[str, Any]) -> None:
    """Notes that the outputs on disk are up to date, with the stage's report."""
    stage, paths = find_stage(name), _paths(name, config, root)
    mark = {"key": freshness_key(stage, config, paths), "outs": _outputs(stage, paths), "report": report}
    write_bytes_atomically(_mark(root, name), (json.dumps(mark, indent=1, sort_keys=True) + "\n").encode())


def last_report(name: str, root: Path) -> dict[str, Any]:
    """Returns the report of the run that made a fresh stage's outputs."""
    report: dict[str, Any] = json.loads(_mark(root, name).read_text("utf-8"))["report"]
    return report


def freshness_key(stage: Stage, config: Config, paths: Paths) -> str:
    """Returns what a stage's output follows from: name, version, parameters, and the contents of what it reads."""
    values = stage.params.of(config).values()
    values |= {path: value for path, value in _outside(stage, config).items() if path not in values}
    read = [paths.digest(dep) if paths[dep].exists() else None for dep in stage.deps]
    return sha256_json([stage.name, stage.version, values, read])


def _paths(name: str, config: Config, root: Path) -> Paths:
    """Returns the places for a stage: what is trained here lies here, whatever models are used."""
    return workspace_paths(root, None if find_stage(name).given else config)


def _outside(stage: Stage, config: Config) -> dict[str, Any]:
    """Returns the parameters that others obey for the stage, who opens its store and finds its models; and the state of
    the tables that it reads."""
    return {
        **({"models.path": config.models.path} if stage.models else {}),
        **({"tables": [*_tables(config.corpus.path), *_tables(config.corpus.reports)]} if stage.updates else {}),
        **({"store": config.store.model_dump(mode="json")} if stage.store else {}),
    }


def _tables(path: str | None) -> list[tuple[str, int, int]]:
    """Returns name, size and time of change of a corpus' tables: a file, an archive, or the files at the top of a
    folder; of what is on S3 nothing, which is looked at when ``medsynth corpus --update`` says so."""
    if path is None or path.startswith("s3://"):
        return []
    named = Path(path).expanduser()
    place = next((each for each in (named, *named.parents) if each.exists()), named)
    files = sorted(each for each in place.glob("*") if each.is_file()) if place == named and place.is_dir() else [place]
    return [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.is_file()]


def _outputs(stage: Stage, paths: Paths) -> list[str]:
    files = (*stage.metrics, *stage.plots)
    return [paths.digest(stage.name), *(paths.digests.tree(paths.root / path) for path in files)]


def _mark(root: Path, name: str) -> Path:
    return root / ".medsynth" / "stages" / f"{name}.json"
