"""Workspaces whose models were trained for two steps: what they draw is noise, which is as much work as a radiograph,
and the filters' bounds let it pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from medsynth_core.progress import silent
from medsynth_core.quality.calibration import save_scores
from medsynth_core.synthesis.inputs import PromptRow
from medsynth_core.synthesis.synthesiser import Synthesiser
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.params import configure, load_config
from medsynth_core.workspace.stages import is_fresh, mark_fresh, run_stage
from medsynth_core.workspace.tree import Config

PREPARED = ("corpus", "vocabulary", "prompts", "classifier", "judge", "vqgan", "alignment", "llm")
BASE = (
    *(
        f"models.{name}.train.{short}"
        for name in PREPARED[3:]
        for short in ("steps=2", "warmup_steps=1", "batch_size=4")
    ),
    "models.vqgan.adversarial_start=2",
    "vocabulary.min_studies=3",
    "quality.min_contrast=0",
)
SMALL = (
    "corpus.image_size=256",
    "corpus.n_studies=400",
    "models.vqgan.channels=[16, 16, 32, 32, 64]",
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
    "models.vqgan.codes=32",
    "models.alignment.image_channels=[8, 16]",
    "models.llm.hidden=16",
    "models.llm.layers=1",
    "models.llm.heads=2",
)
PASSING = {
    "alignment": {"agreement": -1.0},
    "llm": {
        **dict.fromkeys(("clipped", "noise", "anatomy", "organs", "niqe", "labels"), 1e9),
        **dict.fromkeys(("sharpness", "training_copy", "copy", "copy_features"), -1.0),
    },
}
"""Scores of held-out images, by model and filter, whose bounds let everything pass, so that every filter works."""


def prepared(root: Path, settings: list[str]) -> tuple[Path, Config]:
    """Returns a workspace whose models and prompts are made."""
    root = root.resolve()
    init_workspace(root, configure(settings, "demo"))
    config = load_config(root / "params.yaml")
    for name in PREPARED:
        if not is_fresh(name, config, root):
            report = run_stage(name, config, root, silent)
            if name in PASSING:
                save_scores(root / "models" / name, {filter_: [bound] for filter_, bound in PASSING[name].items()})
                mark_fresh(name, config, root, report)
    return root, config


def draw_seconds(synthesiser: Synthesiser, ids: Sequence[str], prompts: Sequence[PromptRow]) -> float:
    """Returns the seconds of images from prompts and keypatches to pixels, a batch rendered while the next is being
    decoded, as in the flow."""
    keypatches = synthesiser.keypatches(prompts)
    began = time.perf_counter()
    synthesiser.images(ids, prompts, keypatches)
    return time.perf_counter() - began
