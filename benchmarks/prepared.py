"""Workspaces whose models were trained for two steps: what they draw is noise, which is as much work as a radiograph,
and the filters' bounds let it pass."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from medsynth_core.filters import FILTERS
from medsynth_core.progress import silent
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure, load_config
from medsynth_core.workspace.stages import is_fresh, mark_fresh, run_stage
from medsynth_core.workspace.tree import Config

PREPARED = ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "llm", "calibrate")
BASE = (
    *(
        f"models.{name}.train.{short}"
        for name in PREPARED[3:-1]
        for short in ("steps=2", "warmup_steps=1", "batch_size=4")
    ),
    "models.vqgan.adversarial_start=2",
    "vocabulary.min_studies=3",
    "quality.degenerate.min_contrast=0",
    "release.min_fidelity.tokenizer=null",
    "release.min_fidelity.images=null",
)
SMALL = (
    "corpus.image_size=256",
    "corpus.n_studies=400",
    "models.vqgan.channels=[16, 16, 32, 32, 64]",
    "models.vqgan.patch=1",
    "models.vqgan.codes=1024",
    "models.alignment.image_channels=[16, 32, 64, 128]",
    "models.llm.hidden=256",
    "models.llm.layers=6",
)
"""256 tokens an image; language model of the size ``small`` of benchmarks.engine."""
TINY = (
    "corpus.image_size=32",
    "corpus.n_studies=400",
    "models.vqgan.channels=[8, 8, 16]",
    "models.vqgan.patch=1",
    "models.vqgan.codes=32",
    "models.alignment.image_channels=[8, 16]",
    "models.llm.hidden=16",
    "models.llm.layers=1",
    "models.llm.heads=2",
)
_LOW = (
    "score_sharpness",
    "score_training_distance",
    "score_release_distance",
    "score_release_features",
    "score_agreement",
)
"""Scores of which less is worse; of all others more."""


def prepared(root: Path, settings: list[str]) -> tuple[Path, Config]:
    """Returns a workspace whose models and prompts are made."""
    root = root.resolve()
    init_workspace(root, configure(settings, "demo"))
    config = load_config(root / "params.yaml")
    for name in PREPARED:
        if not is_fresh(name, config, root):
            report = run_stage(name, config, root, silent)
            if name == "calibrate":
                let_all_pass(root / "models" / "filters")
                mark_fresh(name, config, root, report)
    return root, config


def let_all_pass(folder: Path) -> None:
    """Writes scores of held-out images whose bounds let everything pass, so that every filter works."""
    for each in FILTERS:
        passing = {column.name: [-1.0 if column.name in _LOW else 1e9] for column in each.columns}
        (folder / each.name / "scores.json").write_text(json.dumps(passing))


def draw_seconds(synthesiser: Synthesiser, ids: Sequence[str], prompts: Sequence[PromptRow]) -> float:
    """Returns the seconds of images from prompts and keypatches to pixels, a batch rendered while the next is being
    decoded, as in the flow."""
    keypatches = synthesiser.keypatches(prompts)
    began = time.perf_counter()
    synthesiser.images(ids, prompts, keypatches)
    return time.perf_counter() - began
